"""Version rule shared by stores and records: same major number reads, another is refused by name."""

from schemas.errors import SchemaError


def check_version(found: object, supported: str, where: str) -> None:
    """Refuse a version whose major number this build does not read.

    Parameters
    ----------
    found : object
        What the file says, expected to be a string ``major.minor``.
    supported : str
        The newest version this build writes.
    where : str
        Names file and field in the message.

    Raises
    ------
    SchemaError
        When `found` is no version or has another major number.
    """
    major = supported.split(".")[0]
    if not isinstance(found, str) or not all(part.isdigit() for part in found.split(".")):
        raise SchemaError(
            f"{where}: expected a version such as {supported!r}, found {found!r}; the file is not rvqprobe's"
        )
    if found.split(".")[0] != major:
        raise SchemaError(
            f"{where}: version {found} is not known to this build, which reads {major}.x; "
            "install the rvqprobe that wrote it, or rebuild the file with this one"
        )
