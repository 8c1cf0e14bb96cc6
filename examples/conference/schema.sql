-- The legacy application's own schema. It was here before the hub and knows nothing of it.

create type session_kind as enum ('keynote', 'talk', 'workshop');
create type order_status as enum ('placed', 'paid', 'shipped', 'cancelled');

create table companies (
    id          bigint generated always as identity primary key,
    name        text        not null,
    country     char(2)     not null,
    vat_number  text,
    created_at  timestamptz not null default now()
);

create table attendees (
    id          bigint generated always as identity primary key,
    company_id  bigint references companies,
    name        text        not null,
    email       text        not null unique,
    newsletter  boolean     not null default false,
    interests   text[]      not null default '{}',
    preferences jsonb       not null default '{}',
    born_on     date,
    created_at  timestamptz not null default now(),
    deleted_at  timestamptz
);
create index on attendees (company_id);

create table speakers (
    id         bigint generated always as identity primary key,
    name       text not null,
    biography  text
);

create table sessions (
    id         bigint generated always as identity primary key,
    code       text           not null unique,
    title      text           not null,
    kind       session_kind   not null,
    room       text,
    starts_at  timestamptz    not null,
    duration   interval       not null,
    capacity   integer        not null check (capacity > 0),
    price      numeric(10, 2) not null
);

create table session_speakers (
    session_id bigint not null references sessions on delete cascade,
    speaker_id bigint not null references speakers,
    primary key (session_id, speaker_id)
);

create table registrations (
    id            bigint generated always as identity primary key,
    attendee_id   bigint      not null references attendees,
    session_id    bigint      not null references sessions,
    registered_at timestamptz not null default now(),
    checked_in    boolean     not null default false,
    unique (attendee_id, session_id)
);
create index on registrations (session_id);

create table orders (
    id              bigint generated always as identity primary key,
    reference       uuid           not null default gen_random_uuid() unique,
    attendee_id     bigint         not null references attendees,
    status          order_status   not null default 'placed',
    total           numeric(12, 2) not null default 0,
    currency        char(3)        not null default 'EUR',
    billing_address jsonb          not null default '{}',
    internal_note   text,
    placed_at       timestamptz    not null default now(),
    paid_at         timestamptz
);
create index on orders (attendee_id);

create table order_lines (
    id          bigint generated always as identity primary key,
    order_id    bigint         not null references orders on delete cascade,
    line_number integer        not null,
    session_id  bigint         not null references sessions,
    quantity    integer        not null check (quantity > 0),
    unit_price  numeric(10, 2) not null,
    unique (order_id, line_number)
);

create table invoices (
    id        bigint generated always as identity primary key,
    order_id  bigint         not null unique references orders on delete cascade,
    number    text           not null unique,
    amount    numeric(12, 2) not null,
    issued_on date           not null default current_date
);

create table tags (
    id   bigint generated always as identity primary key,
    name text not null unique
);

create table order_tags (
    order_id bigint not null references orders on delete cascade,
    tag_id   bigint not null references tags,
    primary key (order_id, tag_id)
);

-- A table that no entity uses: the hub must neither need it nor hold it back.
create table audit_log (
    happened_at timestamptz not null default now(),
    what        text        not null
);
