"""Pages of listings as stores write them, and as they must not be believed."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3stream_fs.errors import StoreError, StoreUnavailable
from s3stream_fs.store.objects import checked_info
from s3stream_fs.store.s3.contents import cut_run
from s3stream_fs.store.s3.page import Written, checked_page, written
from s3stream_fs.store.s3.spelling import Spelling, read
from s3stream_fs.types import MAX_MTIME_NS, NANOSECONDS, ListPage, ObjectId, ObjectInfo

NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def page(inside: str, namespace: str = NAMESPACE, name: str = "ListBucketResult") -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}{namespace}>{inside}</{name}>'.encode()


def parse_page(body: bytes, prefix: str, token: str | None) -> ListPage:
    """What a page says of a store that spells names as Amazon S3 does, if it says that it encodes them."""
    said = written(body)
    spelling = Spelling.FORM if said.announced else Spelling.RAW
    return checked_page(said, read(said.keys, spelling), read(said.prefixes, spelling), said.next_token, prefix, token)


def listed(key: str, rest: str = "<Size>3</Size>") -> str:
    return f"<Contents><Key>{key}</Key>{rest}</Contents>"


@pytest.mark.parametrize("namespace", [NAMESPACE, ""])
def test_all_that_a_page_says(namespace: str) -> None:
    rest = (
        "<LastModified>2026-01-02T03:04:05.678Z</LastModified><ETag>&quot;abc-2&quot;</ETag><Size>3</Size>"
        "<StorageClass>GLACIER</StorageClass><RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress>"
        "<RestoreExpiryDate>2026-02-02T03:04:05Z</RestoreExpiryDate></RestoreStatus>"
    )
    body = page(
        "<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>"
        "<NextContinuationToken>next</NextContinuationToken>"
        + listed("a/%C3%A9+%25", rest)
        + "<CommonPrefixes><Prefix>a/b%20c/</Prefix></CommonPrefixes>"
        "<CommonPrefixes><Prefix>a/d/</Prefix></CommonPrefixes>",
        namespace,
    )
    mtime_ns = int(datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC).timestamp() * 1e9)
    assert parse_page(body, "a/", None) == ListPage(
        (ObjectInfo(ObjectId("a/é %", "abc-2", 3), mtime_ns, "GLACIER", restored=True),), ("a/b c/", "a/d/"), "next"
    )


def test_what_may_be_left_out() -> None:
    assert parse_page(page(""), "", None) == ListPage((), (), None)
    assert parse_page(page(listed("100%41")), "", None).objects == (ObjectInfo(ObjectId("100%41", "", 3), 0),)
    running = "<Size>3</Size><RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress></RestoreStatus>"
    assert not parse_page(page(listed("key", running)), "", None).objects[0].restored


@pytest.mark.parametrize(
    ("modified", "mtime_ns"),
    [
        *((text, 0) for text in ("0001-01-01T00:00:00Z", "1601-01-01T00:00:00.000Z", "1969-12-31T23:59:59.999Z")),
        *((text, 0) for text in ("1970-01-01T00:00:00Z", "", "never", "0001-01-01T00:00:00+14:00", "292278994-08-17")),
        ("2262-04-12T00:00:00Z", MAX_MTIME_NS),
        ("9999-12-31T23:59:59.999999-14:00", MAX_MTIME_NS),
        ("2023-11-14T22:13:20", 1_700_000_000 * NANOSECONDS),
        (" 2023-11-14T22:13:20.500+00:00\n", 1_700_000_000 * NANOSECONDS + 500_000_000),
    ],
)
def test_times(modified: str, mtime_ns: int) -> None:
    """Of all times there is one that can be shown; without an ETag it names the version, where it is a real one."""
    (shown,) = parse_page(page(listed("k", f"<Size>3</Size><LastModified>{modified}</LastModified>")), "", None).objects
    assert shown.mtime_ns == mtime_ns
    assert shown.id.etag == ("@1700000000" if 0 < mtime_ns < MAX_MTIME_NS else "")
    (shown,) = parse_page(
        page(listed("k", f"<ETag>e</ETag><Size>3</Size><LastModified>{modified}</LastModified>")), "", None
    ).objects
    assert shown == ObjectInfo(ObjectId("k", "e", 3), mtime_ns)


@pytest.mark.parametrize("when", [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC), datetime(1, 1, 1)])
def test_times_of_a_head(when: datetime) -> None:
    info = checked_info("k", "", 3, when, "STANDARD", False)
    assert info == ObjectInfo(ObjectId("k", "", 3), 0 if when.year == 1 else MAX_MTIME_NS)
    assert checked_info("k", "", 3, datetime(2023, 11, 14, 22, 13, 20), "STANDARD", False).id.etag == "@1700000000"


@pytest.mark.parametrize(
    "written",
    ["e", "&quot;e&quot;", "'e'", "W/&quot;e&quot;", "&amp;quot;e&amp;quot;", "&#34;e&#34;", " e\n", '"e"'],
)
def test_etags_have_one_form(written: str) -> None:
    (shown,) = parse_page(page(listed("k", f"<ETag>{written}</ETag><Size>3</Size>{MODIFIED}")), "", None).objects
    assert shown.id == ObjectId("k", "e", 3)


@pytest.mark.parametrize("written", ["", "&quot;&quot;", "a&quot;b", "a&#13;&#10;Host: h", "é", "@5", "x" * 1025])
def test_what_is_no_etag_is_none(written: str) -> None:
    for shape in (f"{MODIFIED}<ETag>{written}</ETag>{SIZE}", f"{MODIFIED}<ETag>&quot;{written}&quot;</ETag>{SIZE}"):
        (shown,) = parse_page(page(listed("k", shape)), "", None).objects
        assert shown.id == ObjectId("k", "@1767323045", 12)


def test_a_root_of_another_name() -> None:
    inside = "<IsTruncated>false</IsTruncated>" + listed("a")
    for name, namespace in (
        ("ListBucketV2Result", ""),
        ("ListBucketResult", ' xmlns="urn:other"'),
        ("Liste", NAMESPACE),
    ):
        for body in (page(inside, namespace, name), with_comment(page(inside, namespace, name))):
            assert parse_page(body, "", None).objects[0].id.key == "a"
    prefixed = inside.replace("</", "\0").replace("<", "<s:").replace("\0", "</s:")
    assert parse_page(page(prefixed, ' xmlns:s="urn:s"', "s:Any"), "", None).objects
    assert parse_page(page("<IsTruncated>false</IsTruncated>", "", "ListBucketV2Result"), "", None) == ListPage(
        (), (), None
    )


def test_what_a_page_says_of_more_in_other_letters() -> None:
    body = page(MORE.replace("true", "True") + listed("a"))
    assert parse_page(body, "", None).next_token == "token"


MORE = "<IsTruncated>true</IsTruncated><NextContinuationToken>token</NextContinuationToken>"
WRONG = {
    "another prefix": page(listed("b/c")),
    "a prefix that is not below": page("<CommonPrefixes><Prefix>a/</Prefix></CommonPrefixes>"),
    "no next token": page(listed("a/b") + "<IsTruncated>true</IsTruncated>"),
    "the same token again": page(listed("a/b") + MORE),
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_true(body: bytes) -> None:
    with pytest.raises(StoreError) as failed:
        parse_page(body, "a/", "token")
    assert not isinstance(failed.value, StoreUnavailable)  # to ask again would not help


@pytest.mark.parametrize(
    "odd",
    ["<Contents><Size>3</Size></Contents>"]
    + [
        listed("a/odd", f"{size}")
        for size in (
            "",
            "<Size/>",
            "<Size>-3</Size>",
            "<Size>3.0</Size>",
            "<Size>٣</Size>",
            "<Size>9223372036854775807</Size>",
            "<Size>9999999999999999999</Size>",
        )
    ],
)
def test_an_object_of_which_something_cannot_be_true_is_left_out(odd: str) -> None:
    found = parse_page(page(listed("a/b") + odd + listed("a/z") + MORE), "a/", None)
    assert [info.id.key for info in found.objects] == ["a/b", "a/z"]
    assert found.unusable == (("a/odd",) if "odd" in odd else ("",))
    assert (found.last, found.next_token) == ("a/z", "token")


def test_a_key_that_xml_cannot_carry_is_read_where_a_store_writes_it_all_the_same() -> None:
    raw = page(listed("a/b\x01c") + listed("a/&#1;&#x1F;&#9;z") + listed("a/good")).replace(b"a/good", b"a/\xff")
    found = parse_page(raw, "a/", None)
    assert [info.id.key for info in found.objects] == ["a/b\x01c", "a/\x01\x1f\tz", "a/\udcff"]
    with pytest.raises(StoreUnavailable):  # who is who could not be told
        parse_page(page(listed("a\x01") + listed("\U000f0001")), "", None)
    prefixes = "<CommonPrefixes><Prefix>a\x02/</Prefix></CommonPrefixes>"
    assert parse_page(page(prefixes), "", None).prefixes == ("a\x02/",)


def test_a_storage_class_has_an_end() -> None:
    endless = "<Size>3</Size><StorageClass>" + "X" * 100_000 + "</StorageClass>"
    (found,) = parse_page(page(listed("a", endless)), "", None).objects
    assert len(found.storage_class) < 100


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"<html>",
            page("")[:-5],
            page("", name="html"),
            page("", name="Error"),
            page(listed("a"), name="Error"),
        ),
        page("<Code>SlowDown</Code><IsTruncated>false</IsTruncated>", name="Fault"),
        page("<IsTruncated>false</IsTruncated>" + listed("a"), name="Error"),
        page("<head/><body>" + listed("a") + "</body>", name="html"),
        page("<Buckets/><IsTruncated>false</IsTruncated>", name="ListAllMyBucketsResult"),
        page("<KeyMarker/><IsTruncated>false</IsTruncated><Version/>", name="ListVersionsResult"),
        page("<UploadIdMarker/><IsTruncated>false</IsTruncated>", name="ListMultipartUploadsResult"),
    ],
    ids=repr,
)
def test_what_is_no_listing_is_asked_for_again(body: bytes) -> None:
    with pytest.raises(StoreUnavailable):
        parse_page(body, "", None)


@given(st.binary())
def test_noise(noise: bytes) -> None:
    for body in (noise, page(listed("a/b"))[:-40] + noise):
        try:
            parse_page(body, "a/", None)
        except StoreError:
            continue


MODIFIED = "<LastModified>2026-01-02T03:04:05.000Z</LastModified>"
ETAG = "<ETag>&quot;d41d8cd98f00b204e9800998ecf8427e&quot;</ETag>"
CHECKSUM = "<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType>"
SIZE = "<Size>12</Size>"
CLASS = "<StorageClass>STANDARD</StorageClass>"
OWNER = "<Owner><ID>minio</ID><DisplayName>minio</DisplayName></Owner>"
RESTORED = "<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress></RestoreStatus>"

SHAPES = {
    "Amazon S3": MODIFIED + ETAG + CHECKSUM + SIZE + CLASS,
    "Amazon S3, older objects": MODIFIED + ETAG + SIZE + CLASS,
    "Amazon S3, the first version": MODIFIED + ETAG + CHECKSUM + SIZE + "<Owner><ID>75aa57</ID></Owner>" + CLASS,
    "MinIO": MODIFIED + ETAG.replace("&quot;", "&#34;") + SIZE + OWNER + CLASS,
    "Ceph": MODIFIED + ETAG + SIZE + CLASS + OWNER + "<Type>Normal</Type>",
    "R2": SIZE + MODIFIED + ETAG + CLASS,
    "moto": MODIFIED + ETAG + SIZE + CLASS + "<ChecksumAlgorithm>CRC32</ChecksumAlgorithm>",
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_the_usual_shapes_are_seen_at_once(shape: str) -> None:
    """Slower, and as right, would be the parser of XML."""
    body = page("<IsTruncated>false</IsTruncated>" + "".join(listed(f"k{number}", shape) for number in range(3)))
    if shape is not SHAPES["moto"]:
        run = cut_run(body)
        assert run is not None
        assert [row[0] for row in run.rows] == ["k0", "k1", "k2"]
    assert written(body) == written(with_comment(body))


def with_comment(body: bytes) -> bytes:
    """The same to a parser of XML; for anything quicker it is something unusual."""
    declaration = re.match(rb"<\?xml[^>]*\?>", body)
    at = declaration.end() if declaration else 0
    return body[:at] + b"<!-- -->" + body[at:]


def said_of(body: bytes) -> Written | type[StoreError]:
    try:
        return written(body)
    except StoreError as error:
        return type(error)


FIELDS = [MODIFIED, ETAG, CHECKSUM, SIZE, CLASS, OWNER, RESTORED, "<Type>Normal</Type>", "<ETag>W/&quot;a&quot;</ETag>"]
FIELDS += [f"<ETag>&quot;{'x' * 1025}&quot;</ETag>", "<ETag>&quot;@5&quot;</ETag>", "<ETag>'a'</ETag>"]
HOSTILE = [
    *("<!-- <Contents> -->", "<![CDATA[<Contents>]]>", "<?x <Contents>?>", "<Contents/>", "</Contents>", "<Contents>"),
    *("<Contents x='1'><Key>k</Key><Size>1</Size></Contents>", f"<Other>{listed('in-other')}</Other>", listed("more")),
    *(
        f"<!--{listed('commented')}-->",
        f"<![CDATA[{listed('text')}]]>",
        f"<?x {listed('instructed')}?>",
        " ",
        "\n",
        "x",
    ),
    *(
        "<s:Contents xmlns:s='s'><s:Key>k</s:Key><s:Size>1</s:Size></s:Contents>",
        "&amp;",
        "&no;",
        "&",
        "<",
        "]]>",
        "\x01",
    ),
    *(
        "<Size>99999999999999999999</Size>",
        "<Size>-1</Size>",
        "<Size>٣</Size>",
        "<Key>second</Key>",
        "<Key/>",
        "\ufffe",
    ),
    *("<IsTruncated>true</IsTruncated>", "<CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes>", "<Key>a<b/>c</Key>"),
    *("<StorageClass></StorageClass>", "<LastModified>never</LastModified>", "<!DOCTYPE x>", "\r\n", "\udcff"),
]


LOOKS = listed("a", SHAPES["Amazon S3"]) + listed("b", SHAPES["Amazon S3"])


@pytest.mark.parametrize(
    "inside",
    [
        *(
            f"<!--{LOOKS}-->",
            f"<Other>{LOOKS}</Other>",
            f"<Other/><Name>{LOOKS}</Name>",
            f"<?x {LOOKS}?>",
            f"x{LOOKS}x",
        ),
        *(
            f"<Name><![CDATA[{LOOKS}]]></Name>",
            f"{LOOKS}<!-- -->{LOOKS}",
            f"{LOOKS}<Name/>{LOOKS}",
            f"{LOOKS}<Contents/>",
        ),
        *(f"<Other>{LOOKS}</Other><Contents/>", f"<!--{LOOKS}--><Contents/>", f"<!--{LOOKS}--><run-of-contents/>"),
        *(f"<Other>{LOOKS}</Other><run-of-contents/>", f"{LOOKS}<!---->", f"{LOOKS}<x:Contents xmlns:x='x'/>"),
    ],
)
def test_what_only_looks_like_objects_is_none(inside: str) -> None:
    assert said_of(page(inside)) == said_of(with_comment(page(inside)))


keys = st.text(alphabet="ab/%+ &<>\"'!?]-é\r\n\t\x7f\ud7ff😀", max_size=5)
escaped = st.builds(
    lambda key, cdata: f"<![CDATA[{key}]]>" if cdata else escape(key), keys, st.sampled_from([False] * 9 + [True])
)
contents = st.builds(
    lambda key, fields: listed(key, "".join(fields)),
    st.one_of(escaped, escaped, keys),
    st.one_of(st.sampled_from([[shape] for shape in SHAPES.values()]), st.lists(st.sampled_from(FIELDS), max_size=6)),
)
shaped = st.builds(
    lambda shape, names: "".join(listed(escape(name), shape) for name in names),
    st.sampled_from(list(SHAPES.values())),
    st.lists(keys, min_size=1, max_size=4),
)
around = st.sampled_from(
    ["", "<EncodingType>url</EncodingType>", MORE, "<CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes>"]
)
HEADS = [
    '<?xml version="1.0" encoding="UTF-8"?>\n',
    "",
    '<?xml version="1.0"?>',
    "<?xml version='1.0' encoding='utf-16'?>",
]
OPENS = ["<ListBucketResult>", f"<ListBucketResult{NAMESPACE}>", '<ListBucketResult xmlns="other" a="&lt;">', "<Error>"]


@settings(max_examples=1500, deadline=None)
@given(
    head=st.sampled_from(HEADS[:1] * 5 + HEADS),
    root=st.sampled_from(OPENS[:2] * 4 + OPENS),
    inside=st.lists(st.one_of(shaped, shaped, contents, around), max_size=4).map("".join),
    harm=st.one_of(st.none(), st.none(), st.tuples(st.sampled_from(HOSTILE), st.floats(0, 1))),
    cut=st.one_of(st.none(), st.none(), st.none(), st.floats(0, 1)),
)
def test_both_ways_of_reading_a_page_agree(
    head: str, root: str, inside: str, harm: tuple[str, float] | None, cut: float | None
) -> None:
    text = head + root + inside + f"</{re.split('[ >]', root[1:])[0]}>"
    if harm is not None:
        # Where an element ends, or anywhere.
        ends = [found.end() for found in re.finditer(">", text)]
        at = ends[int(harm[1] * (len(ends) - 1))] if harm[1] < 0.7 else int(harm[1] * len(text))
        text = text[:at] + harm[0] + text[at:]
    body = text.encode("utf-8", "surrogatepass")
    if cut is not None:
        body = body[: int(cut * len(body))]
    assert said_of(body) == said_of(with_comment(body))
