import numpy as np
import pytest
from tensorboardX.crc32c import _crc32c

from research.data.crc32c import crc32c, masked_crc32c


def test_the_checksums_of_the_standard():
    """RFC 3720, appendix B.4, and the check value of the catalogue of CRCs."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


@pytest.mark.parametrize("size", [1, 511, 4095, 4096, 4097, 5000, 100_001])
def test_long_strings_as_short_ones(size):
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    assert crc32c(data) == _crc32c(data)


def test_the_mask_of_tfrecord():
    """The lengths of tensorflow/python/lib/io's own records: 8 zero bytes."""
    assert masked_crc32c(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) % 2**32
