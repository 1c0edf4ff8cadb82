"""A picture as a DICOM secondary capture that refers to the image it explains.

It belongs to the same study and names its source by identifiers only. Nothing else is copied: the
patient's name, number and dates stay empty, and an archive fills them in from the study.
"""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image

from apercu.images.formats.dicom import DicomReference

if TYPE_CHECKING:
    from pydicom import Dataset

EMPTY_FIELDS = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
    *("PatientOrientation", "Laterality", "Manufacturer"),
)
"""Fields that such a file must have and may leave empty."""
SERIES_NUMBER = 9901


def build_secondary_capture(image: Image.Image, source: DicomReference, description: str) -> bytes:
    """Build a DICOM file of 8-bit RGB pixels, derived from its source.

    Args:
        image: the picture in the file.
        source: the identifiers of the image that it explains.
        description: how the picture was made; it must name no patient.

    Returns:
        The bytes of the file.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import (
        ExplicitVRLittleEndian,
        SecondaryCaptureImageStorage,
        generate_uid,
    )

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    capture = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    capture.SpecificCharacterSet = "ISO_IR 192"
    capture.SOPClassUID = meta.MediaStorageSOPClassUID
    capture.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    capture.StudyInstanceUID = source.study or generate_uid()
    capture.SeriesInstanceUID = generate_uid()
    for name in EMPTY_FIELDS:
        setattr(capture, name, None)
    capture.Modality, capture.ConversionType = "OT", "WSD"
    capture.SeriesNumber, capture.InstanceNumber = SERIES_NUMBER, 1
    capture.SeriesDescription = "apercu"
    capture.ImageType = ["DERIVED", "SECONDARY"]
    if source.burned_in_annotation:
        capture.BurnedInAnnotation = source.burned_in_annotation
    capture.DerivationDescription = description[:1024]
    capture.SourceImageSequence = [_make_reference_item(source)]
    capture.DateOfSecondaryCapture = datetime.now(UTC).strftime("%Y%m%d")
    _set_pixels(capture, image.convert("RGB"))
    buffer = BytesIO()
    capture.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _make_reference_item(source: DicomReference) -> Dataset:
    """Return the reference as an item of a sequence."""
    from pydicom import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.sop_class, source.instance
    if source.frame is not None:
        item.ReferencedFrameNumber = source.frame + 1
    return item


def _set_pixels(capture: Dataset, image: Image.Image) -> None:
    """Set the size, the kind and the values of the pixels."""
    capture.SamplesPerPixel, capture.PlanarConfiguration = 3, 0
    capture.PhotometricInterpretation = "RGB"
    capture.Rows, capture.Columns = image.height, image.width
    capture.BitsAllocated, capture.BitsStored, capture.HighBit = 8, 8, 7
    capture.PixelRepresentation = 0
    pixels = image.tobytes()
    capture.PixelData = pixels + bytes(len(pixels) % 2)  # an even number of bytes
    capture["PixelData"].VR = "OB"
