"""FHIR R4: bundles and bulk exports in, question-answer and note records out.

``resources`` validates and takes facts out, ``store`` keeps them on disk by patient,
``templates`` puts them into words, ``export`` joins the three.
"""

from medunlearn_client.records.fhir.export import FhirCollection, recognises
from medunlearn_client.records.fhir.templates import PACKAGED, TemplateSet, load_templates

__all__ = ["PACKAGED", "FhirCollection", "TemplateSet", "load_templates", "recognises"]
