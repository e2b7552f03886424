"""That it is right: backward against central differences, and the contract that every layer keeps."""

from minicaps.proof.discovery import check_class, find_classes, find_examples
from minicaps.proof.gradcheck import gradcheck

__all__ = ["check_class", "find_classes", "find_examples", "gradcheck"]
