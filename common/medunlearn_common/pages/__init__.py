"""Pages for the eye that load nothing from anywhere: charts, numbers, templates, style.

``scales`` turns values into places, ``charts`` turns series into shapes, ``formatting`` turns
numbers into words, ``rendering`` makes the template environment. What a page says is decided
where it is made: the report of a simulation, the coordinator's dashboard.
"""
