"""What `hub connector new` writes: the files in `new/`, in which everything is called acme, under another name."""

from importlib.resources import files

FORMS = {
    "yaml": {"connectors/acme.yaml": "acme.yaml"},
    "python": {"connectors/acme.py": "acme.py.txt"},
    "service": {"services/acme.py": "service.py.txt", "services/test_acme.py": "test_service.py.txt"},
}

_SERVICE_FILES = {
    "destinations/acme.yaml": """\
destination: acme
connector: http
url: http://127.0.0.1:8095/deliveries  # `network: {allow: [localhost]}` in hub.yaml lets the hub reach it
secret: ${WEBHOOK_SECRET}
answers: [reschedule, forward]
""",
    "entities/acme_result.yaml": """\
entity: acme_result
derived: true
from: [acme]
""",
}

_NEXT_STEPS = {
    "yaml": """\
Next:
  1. Make connectors/acme.yaml what the API wants; every key has its comment.
  2. hub connector test acme     tries it out against a server that misbehaves
  3. Write a destination with `connector: acme`.""",
    "python": """\
Next:
  1. Make connectors/acme.py deliver what the system wants.
  2. hub connector test acme     tries it out against a server that misbehaves
  3. Write a destination with `connector: acme`.""",
    "service": """\
Next:
  1. python -m pytest services/test_acme.py
  2. WEBHOOK_SECRET=… python services/acme.py
  3. Write a subscription with `to: acme`, and `network: {allow: [localhost]}` into hub.yaml.
  4. Run the hub with the same WEBHOOK_SECRET.""",
}


def files_of(form: str, name: str) -> dict[str, str]:
    """By path in the project: the text. `form`: a key of FORMS."""
    folder = files("hub.kit") / "new"
    texts = {path: (folder / file).read_text("utf-8") for path, file in FORMS[form].items()}
    if form == "service":
        texts |= _SERVICE_FILES
    return {_named(path, name): _named(text, name) for path, text in texts.items()}


def next_steps(form: str, name: str) -> str:
    return _named(_NEXT_STEPS[form], name)


def _named(text: str, name: str) -> str:
    """`acme` as the name, `AcmeConnector` as a class of it."""
    words = "".join(word.capitalize() for word in name.replace("-", "_").split("_"))
    return text.replace("AcmeConnector", f"{words}Connector").replace("acme", name)
