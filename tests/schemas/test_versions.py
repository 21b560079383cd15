"""The version rule: one major number is read, whatever its minor; everything else is refused by name."""

import pytest

from schemas.errors import RvqprobeError, SchemaError
from schemas.versions import check_version


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.99", "1.2.3"])
def test_any_minor_of_the_known_major_is_read(version):
    check_version(version, "1.0", "a.h5: format_version")


@pytest.mark.parametrize("version", ["0.9", "2.0", "10.0", "11.1"])
def test_another_major_is_refused_by_name(version):
    with pytest.raises(SchemaError) as caught:
        check_version(version, "1.0", "a.h5: format_version")
    message = str(caught.value)
    assert message.startswith(f"a.h5: format_version: version {version} is not known to this build, which reads 1.x")
    assert "install" in message
    assert "\n" not in message


@pytest.mark.parametrize("found", [None, 1.0, 1, "", "1.", ".1", "one", "1.0-beta", "-1.0", "1 .0", b"1.0", ["1.0"]])
def test_what_is_no_version_is_refused(found):
    with pytest.raises(SchemaError, match=r"a\.h5: expected a version such as '1\.0', found ") as caught:
        check_version(found, "1.0", "a.h5")
    assert repr(found) in str(caught.value)


def test_schema_errors_are_ours_and_value_errors():
    assert issubclass(SchemaError, RvqprobeError)
    assert issubclass(SchemaError, ValueError)
    assert str(SchemaError("file", "and line")) == "file and line"
