"""File storage: one interface over a local folder, S3, Google Cloud Storage, Azure, or the SQL database.

What callers may rely on, whichever it is: a file is there whole or not at all; memory does not grow with the
file; keys cannot leave the storage's own space. A file that is not there raises `FileMissingError`, one that is
too long `FileTooLargeError`, a back end that is away ServiceUnavailableException, one that is set up wrongly
`StorageError`.
"""

from scalable_fastapi_system.infra.storage.base import (
    FileMissingError,
    FileStorage,
    FileTooLargeError,
    FileVersion,
    InvalidKeyError,
    StorageError,
    StoredFile,
)
from scalable_fastapi_system.infra.storage.factory import create_storage

__all__ = [
    "FileMissingError",
    "FileStorage",
    "FileTooLargeError",
    "FileVersion",
    "InvalidKeyError",
    "StorageError",
    "StoredFile",
    "create_storage",
]
