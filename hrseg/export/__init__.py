"""From a trained network to files that run elsewhere, with a certificate of what they change."""

from hrseg.export.certificate import Certificate, Scored, certify
from hrseg.export.files import FILE_SUFFIXES, check_precision, export
from hrseg.export.quantization import Quantization

__all__ = ["FILE_SUFFIXES", "Certificate", "Quantization", "Scored", "certify", "check_precision", "export"]
