"""What the name of a column says that it holds: a first guess, for a person to look at."""

from __future__ import annotations

import re
from typing import NamedTuple

Phrases = tuple[str, ...]

SPECIAL = frozenset({"race", "religion", "politics", "union", "orientation", "disability", "pregnancy"})
"""Of these Regulation (EU) 2016/679 protects the data themselves (Art. 9(1))."""

PROTECTED: dict[str, Phrases] = {
    "sex": ("sex", "gender", "male", "female", "geschlecht", "sexe", "genero"),
    "age": ("age", "agep", "years old", "senior", "elderly", "pensioner", "age group", "age band", "altersgruppe"),
    "race": ("race", "ethnicity", "ethnic", "ethnic group", "rac1p", "hisp", "hispanic", "latino", "skin color"),
    "origin": (
        "nationality", "national origin", "citizenship", "foreign worker", "foreigner", "immigrant", "nativity",
        "native country", "country of birth", "birth country", "place of birth",
    ),
    "religion": ("religion", "religious", "faith", "denomination"),
    "politics": ("political party", "political view", "party membership"),
    "union": ("trade union", "union member", "union membership"),
    "orientation": ("sexual orientation", "lgbt"),
    "disability": ("disability", "disabled", "handicap", "handicapped"),
    "pregnancy": ("pregnant", "pregnancy"),
}  # fmt: skip
"""What outcomes are compared by; grounds of discrimination in EU and US law."""

PERSONAL: dict[str, Phrases] = {
    "marital status": ("marital", "married", "spouse", "marital status", "civil status", "familienstand"),
    "postcode": ("postcode", "postal code", "post code", "zip", "zipcode", "zip code", "plz", "postleitzahl"),
    "address": ("address", "street", "adresse", "strasse"),
}
"""What tells about a person and may stand for what is protected."""

NAMES = "names of people"
IDENTIFYING: dict[str, Phrases] = {
    "e-mail addresses": ("email", "e mail", "mail", "email address"),
    "phone numbers": ("phone", "telephone", "mobile", "cell", "fax", "tel", "phone number", "telefon"),
    NAMES: (
        "name", "first name", "last name", "full name", "middle name", "surname", "forename", "given name",
        "family name", "maiden name", "firstname", "lastname", "fullname", "vorname", "nachname", "customer name",
        "patient name", "employee name", "contact name",
    ),
    "numbers of a person": (
        "ssn", "social security", "passport", "national id", "tax id", "tax number", "nin", "driver license",
        "drivers license", "insurance number", "nhs number", "mrn",
    ),
    "numbers of accounts": ("iban", "account number", "card number", "credit card", "kontonummer"),
    "names of users": ("username", "user name", "login", "nickname"),
    "network addresses": ("ip", "ip address", "mac address", "imei", "imsi"),
}  # fmt: skip
"""What names a person, where the values are as many as people are."""

IDS = frozenset({"id", "ids", "uuid", "guid", "identifier", "key", "pk", "rowid", "nr", "no", "num", "number", "ref"})
KEYS = frozenset({"id", "ids", "key", "pk"})
ROWS = frozenset({"index", "row", "rownumber", "instant", "unnamed"})
PEOPLE = frozenset({
    "customer", "client", "user", "person", "people", "patient", "member", "employee", "applicant", "subject",
    "student", "borrower", "subscriber", "policyholder", "household", "account", "visitor", "guest", "donor", "kunde",
})  # fmt: skip
BIRTH = frozenset({"birth", "birthday", "birthdate", "dob", "born", "geburtsdatum"})
YEARS = frozenset({"year", "yr", "jahr"})
CODES = frozenset({"code", "type", "kind", "category", "cat", "class", "region", "zone", "group", "cluster"})
THINGS = frozenset({
    "account", "building", "car", "company", "credit", "device", "firm", "house", "housing", "loan", "machine",
    "policy", "product", "property", "tree", "vehicle",
})  # fmt: skip
"""What has an age, too."""
WEIGHTS = ("fnlwgt", "sample weight", "sampling weight", "survey weight", "pweight", "pwgtp", "wgtp")


class Meaning(NamedTuple):
    """What a name says."""

    kind: str
    """``protected``, ``personal`` or ``identifying``."""
    what: str
    """Its key in the table of that kind."""


def tokens(name: str) -> tuple[str, ...]:
    """The words of a name: ``SeniorCitizen``, ``senior_citizen`` and ``senior citizen`` have the same."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    found = re.findall(r"[^\W\d_]+|\d+", apart)
    return tuple(one.lower() for one in found)


def meaning(name: str) -> Meaning | None:
    """The likeliest meaning of a column's name, longest phrase first; None where it says nothing."""
    words = tokens(name)
    told = [
        (len(phrase.split()), Meaning(kind, what))
        for kind, table in (("protected", PROTECTED), ("personal", PERSONAL), ("identifying", IDENTIFYING))
        for what, phrases in table.items()
        for phrase in phrases
        if _says(words, phrase) and not (what == "age" and THINGS.intersection(words))
    ]
    return max(told, key=lambda one: one[0])[1] if told else None


def says(name: str, words: frozenset[str]) -> bool:
    """Whether one of ``words`` is among the words of ``name``."""
    return not words.isdisjoint(tokens(name)) or name.lower() in words


def weighs(name: str) -> bool:
    """Whether it is called as weights of a survey's rows are."""
    return any(_says(tokens(name), phrase) for phrase in WEIGHTS)


def _says(words: tuple[str, ...], phrase: str) -> bool:
    wanted = tuple(phrase.split())
    if "".join(words) == "".join(wanted):
        return True
    if phrase == "name":  # product_name is nobody's
        return False
    return any(words[i : i + len(wanted)] == wanted for i in range(len(words)))
