"""The files of a new project: small, commented, and right by `hub check --offline` as they are."""

FILES = {
    "hub.yaml": """\
# The hub's own settings. ${NAME} and ${NAME:-default} take environment variables, in any value of any file.
hub: example                          # the name that receivers see
sources:
  main:
    # The application's database. Replace the default, or set SOURCE_URL.
    url: ${SOURCE_URL:-postgresql://hub:hub@127.0.0.1:5432/postgres}
    slot: hub                         # the name of the replication slot and the publication
store: sqlite:///var/hub.db           # the hub's own memory; relative to this directory
console: {listen: 127.0.0.1:8080}     # /healthz, /readyz and /metrics; add `token:` before others may reach it
# network: {allow: [private]}         # when receivers are inside your own network
retention: {documents: 30d, attempts: 7d}
""",
    "entities/order.yaml": """\
# A kind of document: a root table and what it embeds. Tables without a schema are in `public`.
entity: order
table: public.orders
columns: {exclude: [internal_note]}   # never leaves the database
belongs_to:
  customer:
    table: public.customers
    foreign_key: customer_id
    columns: {include: [id, name, email]}
has_many:
  lines:
    table: public.order_lines
    foreign_key: order_id
    order_by: line_number
""",
    "destinations/archive.yaml": """\
# Where documents go. This one appends a JSON line for each delivery to a file.
destination: archive
connector: file
path: var/archive.jsonl
""",
    "subscriptions/archive-orders.yaml": """\
# Which documents go where. Every order that is paid or shipped, from the initial load on.
subscription: archive-orders
entity: order
to: archive
match:
  status: [paid, shipped]
on: [created, updated, deleted, snapshot]
""",
    ".gitignore": "var/\n",
}

NEXT_STEPS = """\
A new project is in {directory}. Next:
  1. Set SOURCE_URL to the application's database, or edit {directory}/hub.yaml.
  2. Make entities/order.yaml the entity that you want to deliver.
  3. hub --project {directory} check           says what does not fit the database
  4. hub --project {directory} source sql      prints what the database's owner runs once
  5. hub --project {directory} run             starts delivering to var/archive.jsonl"""
