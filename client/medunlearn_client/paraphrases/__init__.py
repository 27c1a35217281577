"""A record's fact in other words, so that it is forgotten in those as well."""

from medunlearn_client.paraphrases.faithful import Fault
from medunlearn_client.paraphrases.local_model import local_folder
from medunlearn_client.paraphrases.paraphraser import Dropped, Paraphrase, Paraphraser, Paraphrases
from medunlearn_client.paraphrases.templates import WordingSet, load_wordings

__all__ = [
    "Dropped",
    "Fault",
    "Paraphrase",
    "Paraphraser",
    "Paraphrases",
    "WordingSet",
    "load_wordings",
    "local_folder",
]
