"""What can go wrong with DICOM objects, by what the caller must do. Each docstring says it.

    DicomError             an InvalidArgument, of the field ``image``
    ├── NotDicom           give another file: it is not DICOM, or is damaged
    ├── NoImage            give another object of the study: this one holds no image
    ├── BadAttribute       have the sender correct the object: an attribute is missing or cannot be
    ├── UnsupportedSyntax  transcode it
    ├── BadPixels          fetch it again: its pixel data is damaged
    └── TooLarge           give a smaller object

Knows what each error means. No error's words hold a value of the object, a name or a path: attributes are named by
their keywords and tags.
"""

from __future__ import annotations

from mediround.errors import FieldViolation, InvalidArgument


class DicomError(InvalidArgument):
    """Base of every error about a DICOM object. The object is not served as it is; nothing else is hurt."""

    def __init__(self, message: str) -> None:
        super().__init__(message, (FieldViolation("image", message),))


class NotDicom(DicomError):
    """It is no DICOM file (PS3.10), is truncated, or cannot be parsed: fetch it again, or give another."""


class NoImage(DicomError):
    """The object holds no image: a structure set, a report, a document, a presentation state, a segmentation. Give
    the image that it refers to.
    """


class BadAttribute(DicomError):
    """An attribute that the image cannot be read without is missing, of another type, or has a value that cannot
    be: whoever sends the object must correct it.

    Attributes:
        keyword: the attribute's keyword in PS3.6, for example ``BitsStored``.
    """

    def __init__(self, message: str, keyword: str = "") -> None:
        super().__init__(message)
        self.keyword = keyword


class UnsupportedSyntax(DicomError):
    """No decoder that is installed reads this transfer syntax or this form of it: transcode the object, for
    example by ``gdcmconv --raw``, or ask the archive for Explicit VR Little Endian.
    """


class BadPixels(DicomError):
    """The pixel data is damaged: shorter than it must be, or refused by the decoder. Fetch the object again."""


class TooLarge(DicomError):
    """The object, or one frame of it, is larger than is read (``mediround.dicom.limits``): give a smaller one."""
