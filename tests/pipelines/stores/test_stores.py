"""The store in memory beside Beam's own GCS and S3 file systems on servers: the same semantics."""

import pytest
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from tests.pipelines.stores.memory import AFTER, BEFORE, CLOSE, DELETE, Unavailable


def put(path, data):
    with FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        file.write(data)


def get(path):
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        return file.read()


def names(root):
    """Names below the root of all that is there."""
    found = FileSystems.match([f"{root}/**"])[0].metadata_list
    return sorted(metadata.path.removeprefix(f"{root}/") for metadata in found)


def test_an_object_appears_when_its_writer_closes(root):
    file = FileSystems.create(f"{root}/a/b", compression_type=CompressionTypes.UNCOMPRESSED)
    file.write(b"all of it")
    assert names(root) == []

    file.close()

    assert names(root) == ["a/b"]
    assert get(f"{root}/a/b") == b"all of it"


def test_who_closes_last_replaces_the_object_as_a_whole(root):
    first, second = (
        FileSystems.create(f"{root}/x", compression_type=CompressionTypes.UNCOMPRESSED)
        for _ in range(2)
    )
    first.write(b"the first and longer")
    second.write(b"second")
    second.close()
    assert get(f"{root}/x") == b"second"

    first.close()

    assert get(f"{root}/x") == b"the first and longer"


def test_folders_do_not_exist_nor_need_to_be_made(root):
    FileSystems.mkdirs(f"{root}/folder")
    assert not FileSystems.exists(f"{root}/folder")

    put(f"{root}/folder/x", b"1")

    assert not FileSystems.exists(f"{root}/folder")
    assert not FileSystems.exists(f"{root}/fold")
    assert FileSystems.exists(f"{root}/folder/x")


def test_only_a_name_with_a_slash_deletes_a_prefix(root):
    for name in ("folder/1", "folder/deep/2", "folder-of-others/3"):
        put(f"{root}/{name}", b"1")

    FileSystems.delete([f"{root}/folder"])
    assert len(names(root)) == 3

    FileSystems.delete([f"{root}/folder/"])
    assert names(root) == ["folder-of-others/3"]


def test_to_delete_what_is_not_there_is_no_error(root):
    FileSystems.delete([f"{root}/nothing"])
    FileSystems.delete([f"{root}/nothing/"])


def test_a_renaming_replaces_an_object(root):
    put(f"{root}/old", b"old")
    put(f"{root}/new", b"an older one")

    FileSystems.rename([f"{root}/old"], [f"{root}/new"])

    assert names(root) == ["new"]
    assert get(f"{root}/new") == b"old"


def test_a_missing_object_cannot_be_read_nor_renamed(root):
    with pytest.raises(Exception, match="(?i)no object|not found|404"):
        get(f"{root}/nothing")
    with pytest.raises(Exception, match="Rename operation failed"):
        FileSystems.rename([f"{root}/nothing"], [f"{root}/something"])


def test_patterns_and_sizes(root):
    for name in ("a-1.csv", "a-2.csv", "b.csv", "deep/a-3.csv"):
        put(f"{root}/{name}", b"four")

    found = FileSystems.match([f"{root}/a-*.csv"])[0].metadata_list

    assert sorted((m.path.removeprefix(root), m.size_in_bytes) for m in found) == [
        ("/a-1.csv", 4),
        ("/a-2.csv", 4),
    ]


def test_a_reader_finds_its_way(root):
    put(f"{root}/x", bytes(range(200)) * 1000)

    with FileSystems.open(f"{root}/x", compression_type=CompressionTypes.UNCOMPRESSED) as file:
        file.seek(100_007)
        assert file.read(3) == bytes([7, 8, 9])
        file.seek(-1, 2)
        assert file.read() == b"\xc7"


def test_a_block_that_fails_may_leave_half_an_object(root):
    """Nobody may take an object for whole because it is there."""

    def write():
        with FileSystems.create(
            f"{root}/x", compression_type=CompressionTypes.UNCOMPRESSED
        ) as file:
            file.write(b"half")
            raise ValueError("the other half")

    with pytest.raises(ValueError, match="the other half"):
        write()

    # Google's client takes it back where it can, boto3 and the store in memory do not.
    assert names(root) == ([] if root.startswith("gs://") else ["x"])


def test_an_empty_object(root):
    """Beam's S3 writer ends an upload without a part, which S3 refuses."""
    if root.startswith("s3://"):
        with pytest.raises(Exception, match="(?i)malformed|at least one part|must"):
            put(f"{root}/x", b"")
    else:
        put(f"{root}/x", b"")
        assert get(f"{root}/x") == b""


def test_the_log_tells_who_changed_what(store):
    put("mem://b/x", b"1")
    FileSystems.delete(["mem://b/x"])

    changes = [(done.kind, done.path) for done in store.log if done.kind in (CLOSE, DELETE)]

    assert changes == [(CLOSE, "mem://b/x"), (DELETE, "mem://b/x")]
    assert {done.who for done in store.log} == {"MainThread"}


@pytest.mark.parametrize(("when", "left"), [(BEFORE, []), (AFTER, ["mem://b/x"])])
def test_an_operation_fails_before_or_after_it_took_effect(store, when, left):
    def hook(operation, phase):
        if operation.kind == CLOSE and phase == when:
            raise Unavailable("503")

    store.hook = hook

    with pytest.raises(Unavailable):
        put("mem://b/x", b"1")
    assert store.names() == left
