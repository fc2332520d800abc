"""Make the rows: 3,000 invented applicants. No person stands behind any of them."""

import csv
from pathlib import Path

import numpy as np

N = 3000
FIRST = ("Ada", "Ben", "Cem", "Dora", "Emil", "Fay", "Gus", "Hana", "Ivo", "Jana", "Karl", "Lena")
LAST = ("Abel", "Brandt", "Celik", "Dietz", "Ebert", "Falk", "Graf", "Horn", "Ilic", "Jung", "Koch", "Lang")

rng = np.random.default_rng(20160427)
income = np.round(rng.lognormal(10.3, 0.45, N), -2)
amount = np.round(rng.lognormal(9.2, 0.6, N), -2)
years = rng.poisson(6, N)
age = rng.integers(20, 75, N)
sex = rng.choice(["f", "m"], N)
housing = rng.choice(["rent", "own", "family"], N, p=[0.5, 0.35, 0.15])
score = 1.8 * np.log(income / 30000) - 1.5 * np.log(amount / 10000) + 0.09 * (years - 6) + 0.5 * (housing == "own")
repaid = (rng.random(N) < 1 / (1 + np.exp(-(score + 0.9)))).astype(int)

with (Path(__file__).parent / "data" / "applications.csv").open("w", newline="", encoding="utf-8") as file:
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(
        ["customer", "name", "email", "sex", "age", "income", "amount", "years_employed", "housing", "repaid"]
    )
    for i in range(N):
        first, last = FIRST[rng.integers(len(FIRST))], LAST[rng.integers(len(LAST))]
        customer = f"{rng.integers(10**9):09d}"
        email = f"{first}.{last}{i}@mail.example".lower()
        rows.writerow(
            [
                customer,
                f"{first} {last}",
                email,
                sex[i],
                age[i],
                int(income[i]),
                int(amount[i]),
                years[i],
                housing[i],
                repaid[i],
            ]
        )
