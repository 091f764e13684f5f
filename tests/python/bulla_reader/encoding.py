"""ENV-2: MessagePack of which each value has exactly one accepted encoding.

A public library reads; what it read is written again by the same library,
which writes the shortest form, and compared with what was there.
"""

import io

import msgpack

from .refusal import Refused

MAX = 64 * 1024 * 1024


class Reader:
    """Reads one value after the other, each strictly."""

    def __init__(self, data):
        self.data = data
        self.unpacker = msgpack.Unpacker(
            io.BytesIO(data),
            raw=False,
            strict_map_key=False,
            object_pairs_hook=Pairs,
            max_buffer_size=MAX + 1,
            read_size=max(1, min(len(data), 1 << 20)),
        )
        self.at = 0

    def finish(self):
        """Nothing follows."""
        if self.at != len(self.data):
            raise Refused("trailing_bytes")

    def value(self):
        """The next value, whatever it is."""
        return self._strict(self.unpacker.unpack, pack)

    def peek(self):
        """The first byte of the next value."""
        if self.at == len(self.data):
            raise Refused("truncated")
        return self.data[self.at]

    def is_array(self):
        """Whether an array is next."""
        return 0x90 <= self.peek() <= 0x9F or self.peek() in (0xDC, 0xDD)

    def array(self):
        """The length of the array that begins here."""
        if not self.is_array():
            raise Refused("wrong_type")
        count = self._strict(
            self.unpacker.read_array_header,
            lambda count: msgpack.Packer().pack_array_header(count),
        )
        # Each element takes a byte at least: a length bomb ends here.
        if count > len(self.data) - self.at:
            raise Refused("truncated")
        return count

    def array_of(self, count):
        if self.array() != count:
            raise Refused("wrong_length")

    def map(self):
        """The number of entries of the map that begins here."""
        if not (0x80 <= self.peek() <= 0x8F or self.peek() in (0xDE, 0xDF)):
            raise Refused("wrong_type")
        count = self._strict(
            self.unpacker.read_map_header,
            lambda count: msgpack.Packer().pack_map_header(count),
        )
        if 2 * count > len(self.data) - self.at:
            raise Refused("truncated")
        return count

    def uint(self):
        if not (self.peek() <= 0x7F or 0xCC <= self.peek() <= 0xD3):
            raise Refused("wrong_type")
        return self.value()

    def boolean(self):
        if self.peek() not in (0xC2, 0xC3):
            raise Refused("wrong_type")
        return self.value()

    def nil(self):
        """Takes a nil if one is next."""
        if self.at < len(self.data) and self.data[self.at] == 0xC0:
            self.value()
            return True
        return False

    def bytes(self, limit=MAX):
        if not 0xC4 <= self.peek() <= 0xC6:
            raise Refused("wrong_type")
        self._limit({0xC4: 1, 0xC5: 2, 0xC6: 4}[self.peek()], limit)
        return self.value()

    def bytes_of(self, length):
        value = self.bytes()
        if len(value) != length:
            raise Refused("wrong_length")
        return value

    def text(self, limit):
        if not (0xA0 <= self.peek() <= 0xBF or 0xD9 <= self.peek() <= 0xDB):
            raise Refused("wrong_type")
        if self.peek() >= 0xD9:
            self._limit({0xD9: 1, 0xDA: 2, 0xDB: 4}[self.peek()], limit)
        value = self.value()
        if len(value.encode()) > limit:
            raise Refused("too_long")
        return value

    def _limit(self, width, limit):
        """ENV-4: a limit is compared before anything is taken."""
        length = self.data[self.at + 1 : self.at + 1 + width]
        if len(length) == width and int.from_bytes(length, "big") > limit:
            raise Refused("too_long")

    def _strict(self, read, write):
        start = self.at
        try:
            value = read()
        except msgpack.OutOfData:
            raise Refused("truncated") from None
        except UnicodeDecodeError:
            raise Refused("not_utf8") from None
        except (ValueError, msgpack.UnpackException):
            raise Refused("truncated") from None
        self.at = self.unpacker.tell()
        if write(value) != self.data[start : self.at]:
            raise Refused("not_minimal")
        return value


class Pairs(list):
    """A map as its entries, so that none is lost."""


def pack(value):
    """The one encoding of a value."""
    packer = msgpack.Packer(use_bin_type=True)
    if isinstance(value, Pairs):
        return packer.pack_map_pairs(value)
    return packer.pack(value)
