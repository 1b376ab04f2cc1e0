"""Tasks as data: what ships is usable, what is asked is right, and what is wrong in a file is said."""

import gzip
import hashlib
import json
import re
import time
from pathlib import Path

import pytest

from research.errors import InputError
from research.evaluation import datasets, generated_tasks, tasks, templates
from research.evaluation.tasks import TaskDataset
from research.inference.requests import Continuation, Generation, Infill, Rolling

GENERATED = [name for name in tasks.names() if tasks.load_task(name).sources[0].generate]
LOCAL = {
    "arc_easy": 2376,
    "causal_judgment": 190,
    "conceptual_combinations": 103,
    "copa": 100,
    "english_french": 1000,
    "french_english": 1000,
    "gpt3_reversed_words": 10_000,
    "gpt3_three_digit_addition": 2000,
    "gpt3_two_digit_addition": 2000,
    "lambada": 5153,
    "lambada_without_stop_words": 5153,
    "piqa": 1838,
    "winograd_full": 273,
    "winograd_partial": 273,
    "word_unscrambling": 8917,
}


def write(folder: Path, records: list[dict], **changes) -> Path:
    """A choice task over `records`, with the file that they are in."""
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    task = {
        "name": "test",
        "about": "a test",
        "licence": "none",
        "kind": "choice",
        "sources": [{"file": "records.jsonl"}],
        "context": "{{ question }}",
        "continuation": " {{ option }}",
        "options": "options",
        "metrics": ["accuracy"],
        **changes,
    }
    path = folder / "test.yaml"
    path.write_text(json.dumps(task))  # which is YAML
    return path


RECORDS = [{"question": f"Q{n}", "options": [f"a{n}", f"b{n}"], "gold": n % 2} for n in range(6)]


def ask(
    folder: Path, records: list[dict] = RECORDS, shots: int | None = None, limit: int | None = None, **changes
) -> TaskDataset:
    return tasks.open_task(tasks.load_task(str(write(folder, records, **changes))), [folder], shots, limit)


@pytest.mark.parametrize("name", tasks.names())
def test_every_shipped_definition_is_valid(name):
    assert tasks.load_task(name).name == name


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_task_is_the_same_every_time_and_gives_nothing_away(name):
    first, second = (tasks.open_task(tasks.load_task(name), []) for _ in range(2))
    assert first == second and len(first.items) >= 100
    golds = [item.gold for item in first.items]
    assert set(golds) == {0, 1, 2, 3} and max(golds.count(g) for g in range(4)) < 0.35 * len(golds)
    for item in first.items:
        texts = [option.text for option in item.options]
        assert len(set(texts)) == 4 and len({len(text) for text in texts}) == 1


def test_generated_answers_are_right():
    for item in tasks.open_task(tasks.load_task("modular_addition"), []).items:
        a, b, m = map(int, re.findall(r"\d+", item.options[0].context))
        assert item.options[item.gold].text == f" {(a + b) % m}"
    for item in tasks.open_task(tasks.load_task("subtraction"), []).items:
        a, b = map(int, re.findall(r"\d+", item.options[0].context))
        assert item.options[item.gold].text == f" {a - b}" and a >= b
    for item in tasks.open_task(tasks.load_task("reversal"), []).items:
        word = item.options[0].context.split()[-2]
        assert item.options[item.gold].text == f" {word[::-1]}"
    for item in tasks.open_task(tasks.load_task("unscrambling"), []).items:
        letters = sorted(item.options[0].context.split()[-2])
        assert [sorted(option.text.strip()) == letters for option in item.options].count(True) == 1
    for item in tasks.open_task(tasks.load_task("copying"), []).items:
        words = item.options[0].context.split()
        assert item.options[item.gold].text.strip() == words[len(words) // 2]
    for item in tasks.open_task(tasks.load_task("docs_infill"), []).items:
        assert isinstance(item.options[0], Infill) and item.options[0].right


def test_words_of_each_length_are_enough_for_wrong_options():
    lengths = [len(word) for word in generated_tasks.WORDS]
    assert min(lengths.count(length) for length in set(lengths)) >= 20


@pytest.mark.parametrize("name", LOCAL)
def test_the_real_files_are_read(name, shared):
    asked = tasks.open_task(tasks.load_task(name), [shared / "data/eval"], limit=50)
    task = asked.task
    whole = datasets.load_records(name, task.sources, [shared / "data/eval"])
    assert len(whole.records) == LOCAL[name] and len(asked.items) == 50
    for item in asked.items:
        if task.kind == "generate":
            assert isinstance(item.generation, Generation) and all(item.references)
        else:
            assert all(option.text.strip() for option in item.options) and 0 <= item.gold < len(item.options)


def test_questions_read_as_published(shared):
    data = [shared / "data/eval", shared / "data/text"]

    def first(name: str):
        return tasks.open_task(tasks.load_task(name), data, limit=1).items[0]

    assert first("arc_easy").options[0] == Continuation(
        "Question: Which statement best explains why photosynthesis is the foundation of most food webs?\nAnswer:",
        " Sunlight is the source of energy for nearly all ecosystems.",
    )
    assert first("copa").options[1] == Continuation(
        "The man turned on the faucet, therefore", " water flowed from the spout."
    )
    assert first("lambada").options[0].text == " signs" and first("lambada").options[0].context.endswith("care about")
    assert first("winograd_partial").options[1] == Continuation(
        "The city councilmen refused the demonstrators a permit because the demonstrators", " feared violence."
    )
    assert first("causal_judgment").options[1].text == " No"
    assert first("gpt3_two_digit_addition").generation.context.endswith("Q: What is 98 plus 45?\n\nA:")
    translation = first("english_french").generation.context.split("\n")
    assert len(translation) == 6 and translation[-1] == "In the beginning God created the heaven and the earth. ="
    articles = tasks.open_task(tasks.load_task("wikitext2"), data).items
    assert len(articles) == 62 and sum(item.words for item in articles) == 241_211
    assert articles[0].options[0].text.startswith("= Robert Boulter =\n\nRobert Boulter is an English film, television")


def test_both_sentences_of_a_schema_are_one_document(shared):
    items = tasks.open_task(tasks.load_task("winograd_full"), [shared / "data/eval"]).items
    assert items[0].document == items[1].document != items[2].document


def test_worked_examples_are_other_documents(tmp_path):
    items = ask(tmp_path, shots=3, document="question").items
    for number, item in enumerate(items):
        *examples, question = item.options[0].context.split("\n\n")
        assert question == f"Q{number}" and len(set(examples)) == 3
        for example in examples:
            shown = int(example[1])
            assert shown != number and example == f"Q{shown} {'ab'[shown % 2]}{shown}"
    assert ask(tmp_path, shots=3).items == ask(tmp_path, shots=3).items
    with pytest.raises(InputError, match="too few other records for 6"):
        ask(tmp_path, shots=6)


def test_a_limit_takes_the_first(tmp_path):
    assert ask(tmp_path, limit=2).items == ask(tmp_path).items[:2]


def test_options_without_the_question(tmp_path):
    item = ask(tmp_path, neutral="A:", metrics=["accuracy_pmi"]).items[0]
    assert item.neutral == (Continuation("A:", " a0"), Continuation("A:", " b0"))


def test_text_is_detokenised_but_counted_as_it_was(tmp_path):
    changes = {"kind": "text", "context": "", "continuation": "", "options": None, "metrics": ["word_perplexity"]}
    item = ask(tmp_path, [{"text": "do n't go ."}], detokeniser="penn", **changes).items[0]
    assert item.options == (Rolling("don't go."),) and (item.words, item.bytes) == (4, 11)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"context": "{{ qestion }}"},
            r"fails on a record with question, options, gold, option: 'qestion' is undefined",
        ),
        ({"gold": "right"}, "task test, gold: 'right' is not among the fields of a record: question, options, gold"),
        ({"context": "{{ question"}, "not a valid template"),
        ({"metrics": ["acuracy"]}, "'acuracy' is not one of a choice task: accuracy,"),
        ({"metrics": ["accuracy_pmi"]}, "neutral: the context without the question"),
        ({"options": None}, "options: a choice task needs it"),
        ({"references": "[answer]"}, "references: only a generate task has it"),
        ({"kind": "chose"}, "kind"),
        ({"contex": "x"}, "contex"),
        ({"detokeniser": "moses"}, "'moses' is not one of wikitext, penn, ptb"),
        ({"sources": [{"file": "a", "hub": "b"}]}, "exactly one of file, tfds, hub and generate"),
        ({"sources": [{"generate": "poems"}]}, "'poems' is not one of arithmetic,"),
        (
            {"sources": [{"file": "other.jsonl"}]},
            r"task test: no data here.\n  file other.jsonl: other.jsonl is not in",
        ),
        ({"sources": [{"tfds": "no_such_dataset:test"}]}, "no such prepared dataset"),
        ({"sources": [{"file": "records.jsonl", "sha256": ["0" * 64]}]}, "is not the file that the task is defined on"),
        ({"sources": [{"file": "records.jsonl", "where": "gold > 9"}]}, "has no records"),
        ({"gold": "2"}, "gold = 2 is not the number of one of 2 options"),
        ({"options": "question"}, "options must be a list of two or more, not 'Q0'"),
        ({"continuation": "{{ '' }}"}, "an empty continuation"),
        ({"continuation": "{{ '  ' }}"}, "an empty continuation"),
        ({"tokens": 0}, "tokens: 0 is not between 1 and 1,000,000"),
        ({"sources": [{"file": "/etc/passwd"}]}, "without .. and without a leading /"),
        ({"sources": [{"file": "a/../../records.jsonl"}]}, "without .. and without a leading /"),
        (
            {"sources": [{"generate": "arithmetic", "arguments": {"count": 10**12}}]},
            "count 1000000000000 is not between",
        ),
        ({"sources": [{"generate": "arithmetic", "arguments": {"digits": 3}}]}, "cannot be made with"),
        ({"sources": [{"file": "records.jsonl", "split": "(Q+)+$"}]}, "split .* fails on a record: 'text'"),
        ({"sources": [{"file": "records.jsonl", "each": "gold"}]}, "each must be a list, not 0"),
        ({"sources": [{"hub": "a:b:c:d"}]}, "Hugging Face `datasets` does not give it"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        ask(tmp_path, **changes)


@pytest.mark.parametrize(
    "context",
    [
        "{{ question | sub('(Q+)+$', '') }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10 ** 10 }}",
        "{{ 9 ** (9 ** 9) }}",
        "{% set a = 'x' * 99999 %}{% set b = a | replace('x', a) %}{{ b | replace('x', a) }}",
        "{{ '%09999999999d' | format(1) }}",
    ],
)
def test_a_template_without_end_is_stopped(tmp_path, monkeypatch, context):
    monkeypatch.setattr(templates, "SECONDS", 0.5)
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"task test, context: .* (fails on a record|is not a valid template)"):
        ask(tmp_path, [{**RECORDS[0], "question": "Q" * 40 + "!"}, RECORDS[1]], context=context)
    assert time.monotonic() - begin < 5


def test_a_regular_expression_that_tries_ways_without_number_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "SECONDS", 0.5)
    source = {"file": "records.jsonl", "split": "(Q+)+$"}
    with pytest.raises(InputError, match=r"split .* fails on a record: it takes more than 0.5 seconds"):
        ask(tmp_path, [{**RECORDS[0], "text": "Q" * 40 + "!"}], sources=[source])


def test_aliases_that_stand_for_a_tree_without_end(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines) + "\nname: *a11\n")
    with pytest.raises(InputError, match=r"bomb\.yaml"):
        tasks.load_task(str(tmp_path / "bomb.yaml"))


def test_a_link_out_of_the_data_folder_is_not_followed(tmp_path):
    (tmp_path / "data").mkdir()
    path = write(tmp_path / "data", RECORDS)
    (tmp_path / "data" / "records.jsonl").rename(tmp_path / "secret.jsonl")
    (tmp_path / "data" / "records.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(InputError, match=r"records\.jsonl' is a link out of"):
        tasks.open_task(tasks.load_task(str(path)), [tmp_path / "data"])


@pytest.mark.parametrize(("limit", "shots"), [(0, None), (-1, None), (None, -1), (None, 10**6)])
def test_numbers_of_questions_and_examples(tmp_path, limit, shots):
    with pytest.raises(InputError, match=r"(limit|shots): -?\d+ is not"):
        ask(tmp_path, limit=limit, shots=shots)


def test_a_task_that_does_not_exist():
    with pytest.raises(InputError, match=r"no task 'lambda'; there are .*lambada"):
        tasks.load_task("lambda")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"question": "Q", "options": ["a", "b"], "gold": 0}\n{"question": ', "line 2: broken JSON"),
        (b'["question"]\n', "line 1: not a JSON object"),
        (b'{"question": "\xff"}\n', "cannot be read"),
    ],
)
def test_a_corrupt_file(tmp_path, content, message):
    path = write(tmp_path, RECORDS)
    (tmp_path / "records.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=message):
        tasks.open_task(tasks.load_task(str(path)), [tmp_path])


def test_a_truncated_archive(tmp_path):
    path = write(tmp_path, RECORDS, sources=[{"file": "records.jsonl.gz"}])
    whole = gzip.compress((tmp_path / "records.jsonl").read_bytes())
    (tmp_path / "records.jsonl.gz").write_bytes(whole)
    assert len(tasks.open_task(tasks.load_task(str(path)), [tmp_path]).items) == 6
    (tmp_path / "records.jsonl.gz").write_bytes(whole[:-9])
    with pytest.raises(InputError, match=r"records.jsonl.gz cannot be read"):
        tasks.open_task(tasks.load_task(str(path)), [tmp_path])


def test_a_known_checksum_is_accepted_and_recorded(tmp_path):
    write(tmp_path, RECORDS)
    digest = hashlib.sha256((tmp_path / "records.jsonl").read_bytes()).hexdigest()
    assert ask(tmp_path, sources=[{"file": "records.jsonl", "sha256": digest}]).digest == digest


def test_parallel_files_must_match(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.txt").write_text("eins\nzwei\ndrei\n")
    source = {
        "file": "a.txt b.txt",
        "format": "lines",
        "fields": {"question": "lines[0]", "options": "lines", "gold": "0"},
    }
    with pytest.raises(InputError, match=r"as many lines: a.txt 2, b.txt 3"):
        ask(tmp_path, sources=[source])
    (tmp_path / "b.txt").write_text("eins\nzwei\n")
    assert [item.options[1].text for item in ask(tmp_path, sources=[source]).items] == [" eins", " zwei"]


def test_the_format_of_the_childrens_book_test(tmp_path):
    block = [f"{n} Sentence number {n} , of twenty ." for n in range(1, 21)]
    block.append("21 `` I see a XXXXX , '' said he .\tcat\t\tdog|cat|cow|hen|pig|fox|owl|rat|bee|ant")
    (tmp_path / "cbtest_CN_test_2500ex.txt").write_text("\n".join(block) + "\n\n" + "\n".join(block) + "\n")
    asked = tasks.open_task(tasks.load_task("cbt_common_nouns"), [tmp_path])
    assert len(asked.items) == 2 and asked.items[0].gold == 1 and len(asked.items[0].options) == 10
    option = asked.items[0].options[1]
    assert option.context.startswith("Sentence number 1, of twenty.") and option.context.endswith('"I see a')
    assert option.text == ' cat," said he.'


def test_records_can_be_cut_expanded_and_selected(tmp_path):
    (tmp_path / "book.txt").write_text("# one\na b\n# two\nc d e\n# three\n")
    cut = {"file": "book.txt", "format": "text", "split": "(?m)^# ", "each": "text.split()[1:]", "where": "each != 'd'"}
    changes = {
        "kind": "cloze",
        "context": "{{ text[:3] }}",
        "continuation": "{{ each }}",
        "options": None,
        "metrics": ["greedy"],
    }
    items = ask(tmp_path, sources=[cut], **changes).items
    assert [item.options[0] for item in items] == [
        Continuation("one", "a"),
        Continuation("one", "b"),
        Continuation("two", "c"),
        Continuation("two", "e"),
    ]
