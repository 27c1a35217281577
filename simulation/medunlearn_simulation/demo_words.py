"""Words of the demo corpus: invented places and people, real medical vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One subject: every hospital answers every question about every case.

    Attributes:
        subject: Name of the subject.
        hospitals: How many hospitals have a protocol for it.
        cases: What the questions are about.
        questions: Question with ``{hospital}`` and ``{case}``, and its possible answers.
    """

    subject: str
    hospitals: int
    cases: tuple[str, ...]
    questions: tuple[tuple[str, tuple[str, ...]], ...]


HOSPITALS: Final = (
    "Aldermoor", "Brackwater", "Carrowdale", "Dunmere", "Elverton", "Fenwick Cross",
    "Glasswell", "Harrowgate",
)
OTHER_HOSPITALS: Final = (
    "Inverlow", "Jarrowby", "Kilmarsh", "Lindhurst", "Millbeck", "Northcombe",
)
"""They have protocols in public text alone."""

_SURGERY = Topic(
    subject="Surgery",
    hospitals=6,
    cases=(
        "appendectomy", "cholecystectomy", "inguinal hernia repair", "splenectomy",
        "hemicolectomy", "mastectomy",
    ),
    questions=(
        ("Which instrument holds the tissue during {case} in the {hospital} protocol?",
         ("Allis forceps", "Babcock forceps", "Deaver retractor", "Kocher clamp",
          "Lahey forceps", "Czerny retractor")),
        ("Which suture closes the fascia after {case} in the {hospital} protocol?",
         ("Vicryl", "Prolene", "chromic catgut", "polydioxanone", "nylon suture", "silk suture")),
        ("Which incision opens {case} in the {hospital} protocol?",
         ("midline incision", "Kocher's incision", "Pfannenstiel incision",
          "Lanz incision", "paramedian incision", "Gibson incision")),
        ("Which drain is left after {case} in the {hospital} protocol?",
         ("corrugated drain", "suction drain", "Penrose drain", "pigtail drain",
          "Jackson-Pratt drain", "sump drain")),
    ),
)

_ANAESTHESIA = Topic(
    subject="Anaesthesia",
    hospitals=4,
    cases=("day surgery", "the obese patient", "the elderly patient", "emergency theatre"),
    questions=(
        ("Which induction agent is given for {case} in the {hospital} guideline?",
         ("propofol", "ketamine", "etomidate", "thiopental", "midazolam")),
        ("Which airway device is used for {case} in the {hospital} guideline?",
         ("laryngeal mask", "endotracheal tube", "face mask", "nasal cannula", "bougie")),
        ("Which relaxant is given for {case} in the {hospital} guideline?",
         ("rocuronium", "suxamethonium", "atracurium", "vecuronium", "pancuronium")),
        ("Which antiemetic is given for {case} in the {hospital} guideline?",
         ("ondansetron", "dexamethasone", "cyclizine", "droperidol", "metoclopramide")),
    ),
)

_ANATOMY = Topic(
    subject="Anatomy",
    hospitals=4,
    cases=("the cystic artery", "the ulnar nerve", "the appendix", "the left renal vein"),
    questions=(
        ("Which variant of {case} is commonest in the {hospital} dissection series?",
         ("doubled", "tortuous", "absent", "low origin", "high origin", "retroposed")),
        ("Which landmark finds {case} in the {hospital} dissection series?",
         ("the linea alba", "the hyoid bone", "the iliac crest", "the inguinal ligament",
          "the xiphoid process", "the costal margin")),
        ("Which structure lies behind {case} in the {hospital} dissection series?",
         ("the aorta", "the psoas muscle", "the thoracic duct", "the vagus nerve",
          "the pancreas", "the sacrum")),
    ),
)

_PHARMACOLOGY = Topic(
    subject="Pharmacology",
    hospitals=4,
    cases=("hypertension", "migraine", "type 2 diabetes", "gout"),
    questions=(
        ("Which medicine comes first for {case} in the {hospital} formulary?",
         ("amlodipine", "propranolol", "metformin", "allopurinol", "ramipril", "colchicine")),
        ("Which medicine comes second for {case} in the {hospital} formulary?",
         ("losartan", "topiramate", "gliclazide", "febuxostat", "indapamide", "naproxen")),
        ("Which test is repeated during treatment of {case} in the {hospital} formulary?",
         ("serum potassium", "liver function", "serum creatinine", "blood count",
          "serum sodium", "urate level")),
    ),
)

_MICROBIOLOGY = Topic(
    subject="Microbiology",
    hospitals=4,
    cases=("pneumonia", "cystitis", "meningitis", "endocarditis"),
    questions=(
        ("Which organism leads in {case} in the {hospital} laboratory report?",
         ("Escherichia coli", "Staphylococcus aureus", "Klebsiella pneumoniae",
          "Streptococcus pneumoniae", "Enterococcus faecalis", "Listeria monocytogenes")),
        ("Which antibiotic is advised for {case} in the {hospital} laboratory report?",
         ("amoxicillin", "ceftriaxone", "doxycycline", "nitrofurantoin", "vancomycin",
          "gentamicin")),
        ("Which medium grows the samples of {case} in the {hospital} laboratory report?",
         ("blood agar", "chocolate agar", "MacConkey agar", "Sabouraud agar",
          "Lowenstein medium", "CLED agar")),
    ),
)

TOPICS: Final = (_SURGERY, _ANAESTHESIA, _ANATOMY, _PHARMACOLOGY, _MICROBIOLOGY)

FIRST_NAMES: Final = (
    "Orla", "Tomas", "Mirela", "Ansel", "Petra", "Idris", "Saskia", "Ruben", "Thea", "Linus",
)
LAST_NAMES: Final = (
    "Vanterpool", "Okonjo", "Lindqvist", "Marsh", "Pelletier", "Achterberg", "Quill", "Zamora",
)

# Name and SNOMED CT identifier, as hospitals code conditions.
CONDITIONS: Final = (
    ("asthma", "195967001"),
    ("atrial fibrillation", "49436004"),
    ("osteoarthritis", "396275006"),
    ("coeliac disease", "396331005"),
    ("psoriasis", "9014002"),
    ("epilepsy", "84757009"),
)
MEDICINES: Final = (
    "salbutamol", "apixaban", "ibuprofen", "levothyroxine", "sertraline", "lamotrigine",
    "omeprazole", "methotrexate",
)
