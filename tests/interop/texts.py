"""What tokenizers must agree on: English, French, Japanese, emoji, code, control characters, marks, numbers."""

TEXTS = [
    "The quick brown fox jumps over the lazy dog. It's 3:45pm, isn't it?",
    "Les élèves ont-ils déjà mangé ? Où est le œuf naïf — c'est l'été…",
    "吾輩は猫である。名前はまだ無い。カタカナとﾊﾝｶｸ、漢字。",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🤖🔥 e\u0301 \U0001d54f",
    "def f(x):\n\treturn {'a': [1, 22, 333], \"b\": x**2}  # über\r\n\r\n    if x != 0:\n",
    "tab\tnull\x00bell\x07esc\x1b[0m\u200b\ufeff\u2028 end   ",
    "<|im_start|>user\nhello<|im_end|>",
    "   leading, 1234567890, 3.14159, trailing   ",
]
