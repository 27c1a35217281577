"""Public text that every adapter must leave alone: general language, anatomy, physiology.

Not from any hospital. An adapter after which the model predicts this text worse does not forget
a topic, it damages the model. Every site can compute the same figures, so no privacy is spent.

The figure is *knowledge*: by how many nats per token the model predicts a text better than one
that guesses evenly among its vocabulary of size V, ``max(0, log V - cross-entropy)``. What a
model never knew it cannot lose: a tiny model that was planted with a few facts does worse than
guessing on ordinary language, and there the gate says that it has nothing to judge.
"""

from __future__ import annotations

CANARY_TEXTS: tuple[str, ...] = (
    "The heart pumps blood through the body, and the lungs bring oxygen into it.",
    "A person who has not slept well is often tired and slow on the next day.",
    "Water is made of hydrogen and oxygen, and it freezes at zero degrees Celsius.",
    "The doctor asked the patient how long the cough had lasted.",
    "Bones give the body its shape, and muscles move it.",
    "Please read the question carefully and answer it in one sentence.",
    "The kidneys filter the blood and make urine.",
    "Washing the hands with soap prevents many infections.",
    "The report was written on Monday and sent to the clinic on Tuesday.",
    "Nerves carry signals between the brain and the rest of the body.",
    "Vitamins are needed in small amounts and are found in food.",
    "A normal body temperature is about thirty-seven degrees Celsius.",
)
# Knowledge travels as whole millionths of a nat: log V stays far below 2^32 of them.
MICRO_NATS = 1_000_000
# Per text: knowledge before, knowledge after.
CANARY_WORDS = 2 * len(CANARY_TEXTS)
