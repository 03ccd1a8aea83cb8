"""What is kept of prompts: found by its own scope's keys, bounded, the oldest forgotten first."""

from tests.core import BLOCK, keys, tokens

from preble.daemon.flow.kept import KeptPrompts

ROOM = 4 * (4 * BLOCK + 200)
"""For four blocks."""


def kept(*prompts, limit_bytes=1 << 20):
    memory = KeptPrompts(limit_bytes)
    for prompt in prompts:
        memory.note(keys(prompt), tokens(prompt), BLOCK)
    return memory


def text(memory, prompt, most_tokens=1000, salt="", skip=0):
    return "".join(map(chr, memory.tokens(keys(prompt, salt)[skip:], most_tokens)))


def test_a_stretch_in_the_middle_is_found():
    memory = kept("abcdefghijkl")
    assert text(memory, "abcdefghijkl") == "abcdefghijkl"
    assert text(memory, "abcdefghijkl", skip=1) == "efghijkl"
    assert text(memory, "abcdefghijkl", most_tokens=6) == "abcdef"


def test_another_scopes_key_finds_nothing():
    assert text(kept("abcdefgh"), "abcdefgh", salt="s") == ""
    assert text(kept("abcdefgh"), "zzzzefgh", skip=1) == ""


def test_what_came_last_longest_ago_is_forgotten_first_and_ends_before_beginnings():
    memory = kept("aaaabbbb", "ccccdddd", "aaaabbbb", "eeee", limit_bytes=ROOM)
    assert text(memory, "ccccdddd") == "cccc"
    assert text(memory, "aaaabbbb") == "aaaabbbb"
    assert memory.size_bytes <= ROOM
    for number in range(100):
        memory.note(keys(f"{number:08}"), tokens(f"{number:08}"), BLOCK)
        assert memory.size_bytes <= ROOM
    assert text(memory, "aaaabbbb") == ""
    assert text(memory, "00000099") == "00000099"


def test_of_a_prompt_that_is_larger_than_the_room_the_beginning_is_kept():
    assert text(kept("aaaabbbbccccddddeeeeffff", limit_bytes=ROOM), "aaaabbbbccccddddeeeeffff") == "aaaabbbbccccdddd"
