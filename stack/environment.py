"""Writes `.env`, which compose.yaml reads: .env.example, with a secret of its own wherever that leaves one empty.

python -m stack.environment
"""

import base64
import re
import secrets
from pathlib import Path

ROOT = Path(__file__).parents[1]


def filled(example: str) -> str:
    """`NAME=` lines with nothing behind them get a secret; WEBHOOK_SECRET in the form that Standard Webhooks has."""
    return re.sub(r"^(\w+)=$", lambda line: f"{line[1]}={_secret(line[1])}", example, flags=re.MULTILINE)


def _secret(name: str) -> str:
    if name == "WEBHOOK_SECRET":
        return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
    return secrets.token_hex(24)  # goes into URLs, so letters and digits alone


def main() -> None:
    file = ROOT / ".env"
    file.touch(mode=0o600)
    file.write_text(filled((ROOT / ".env.example").read_text("utf-8")), "utf-8")
    print(f"{file.name} has secrets of its own now; keep it out of version control.")


if __name__ == "__main__":
    main()
