"""The attestation of the unlearning process, and its verification from public keys alone.

``dsse`` is the signed envelope, ``predicate`` what is attested, ``statement`` the in-toto
statement around it, ``code`` the digest of the installed program, ``verification`` the steps of
``medunlearn verify``. It attests what was done and measured; it is no proof of erasure.
"""
