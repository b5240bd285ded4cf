"""The networks, one architecture a file, registered at the file's end. They need torch only.

Importing one imports all, in the order in which `hrseg models` lists them.
"""

# ruff: noqa: I001 (the order of registration)
from hrseg.models.networks import hrnetv2 as hrnetv2
from hrseg.models.networks import ocr as ocr
from hrseg.models.networks import hmsa as hmsa
from hrseg.models.networks import psa as psa
from hrseg.models.networks import classifier as classifier
from hrseg.models.networks import hrnetv2p as hrnetv2p
from hrseg.models.networks import hrnetv1 as hrnetv1
from hrseg.models.networks import hrformer as hrformer
