"""How good semantic IDs are by themselves, before any model is trained on them.

``usage`` counts codes and collisions, ``clusters`` measures cohesion and separation in a space of vectors, ``report`` puts both into one
dict and prints it, ``choice`` chooses among tokenizers by such reports.
"""
