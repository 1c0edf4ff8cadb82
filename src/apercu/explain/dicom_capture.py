"""A picture as a DICOM secondary capture that refers to the image it explains.

It belongs to the same study and names its source by identifiers alone. Nothing else is taken over:
the patient's name, number and dates stay empty, and an archive fills them in from the study.
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
"""What such a file must have and may leave empty."""
SERIES_NUMBER = 9901


def build_secondary_capture(image: Image.Image, source: DicomReference, description: str) -> bytes:
    """A whole DICOM file: 8-bit RGB, derived from its source.

    Args:
        image: what is shown.
        source: the image that it explains.
        description: of how it was made; must name no patient.
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
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID = meta.MediaStorageSOPClassUID
    made.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    made.StudyInstanceUID = source.study or generate_uid()
    made.SeriesInstanceUID = generate_uid()
    for word in EMPTY_FIELDS:
        setattr(made, word, None)
    made.Modality, made.ConversionType = "OT", "WSD"
    made.SeriesNumber, made.InstanceNumber = SERIES_NUMBER, 1
    made.SeriesDescription = "apercu"
    made.ImageType = ["DERIVED", "SECONDARY"]
    if source.burned_in_annotation:
        made.BurnedInAnnotation = source.burned_in_annotation
    made.DerivationDescription = description[:1024]
    made.SourceImageSequence = [_make_reference_item(source)]
    made.DateOfSecondaryCapture = datetime.now(UTC).strftime("%Y%m%d")
    _set_pixels(made, image.convert("RGB"))
    buffer = BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _make_reference_item(source: DicomReference) -> Dataset:
    """The reference as an item of a sequence."""
    from pydicom import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.sop_class, source.instance
    if source.frame is not None:
        item.ReferencedFrameNumber = source.frame + 1
    return item


def _set_pixels(made: Dataset, image: Image.Image) -> None:
    """Size, kind and values of the pixels."""
    made.SamplesPerPixel, made.PlanarConfiguration = 3, 0
    made.PhotometricInterpretation = "RGB"
    made.Rows, made.Columns = image.height, image.width
    made.BitsAllocated, made.BitsStored, made.HighBit = 8, 8, 7
    made.PixelRepresentation = 0
    pixels = image.tobytes()
    made.PixelData = pixels + bytes(len(pixels) % 2)  # an even number of bytes
    made["PixelData"].VR = "OB"
