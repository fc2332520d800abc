# What a developer runs; CI runs the same lines.
.PHONY: check test fix golden docs clean
PY := .venv/bin

.venv:
	python3 quickstart.py set-up

check: .venv  ## under a minute: format, lint, types, contracts, fast tests
	$(PY)/ruff format --check --quiet
	$(PY)/ruff check --quiet
	$(PY)/mypy
	$(PY)/lint-imports > /dev/null || $(PY)/lint-imports
	$(PY)/python -m pytest -q -m "not slow and not serve and not gpu"

test:  ## everything
	python3 quickstart.py test

fix: .venv
	$(PY)/ruff format
	$(PY)/ruff check --fix

golden: .venv  ## rewrite the golden files; review the difference
	SPECML_GOLDEN=write $(PY)/python -m pytest -q tests/golden

docs: .venv  ## rewrite what is made from the code
	$(PY)/specml schema -o docs/spec.schema.json

clean:
	rm -rf artifacts metrics plots .specml examples/*/artifacts examples/*/metrics examples/*/plots examples/*/.specml
