"""That it is right: backward against central differences, and the contract that every layer keeps."""

from minicaps.proof import audit_template
from minicaps.proof.audit import Finding, audit
from minicaps.proof.banks import CHOICE, FAULT, HOLDS, UNKNOWN, variants_table
from minicaps.proof.calls import adapt
from minicaps.proof.cases import Case, cases_of
from minicaps.proof.contract import CHECKS, check_layer
from minicaps.proof.discovery import (
    check_class,
    find_classes,
    find_examples,
    module_from_path,
    package_modules,
)
from minicaps.proof.gradcheck import gradcheck
from minicaps.proof.grade import cmp
from minicaps.proof.report import Report

__all__ = [
    "CHECKS",
    "CHOICE",
    "FAULT",
    "HOLDS",
    "UNKNOWN",
    "Case",
    "Finding",
    "Report",
    "adapt",
    "audit",
    "audit_template",
    "cases_of",
    "check_class",
    "check_layer",
    "cmp",
    "find_classes",
    "find_examples",
    "gradcheck",
    "module_from_path",
    "package_modules",
    "variants_table",
]
