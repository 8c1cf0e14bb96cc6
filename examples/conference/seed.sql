-- A year of business, small: what the first snapshot finds.

insert into companies (name, country, vat_number, created_at)
select (array['Alder', 'Birch', 'Cedar', 'Elm', 'Fir', 'Hazel', 'Juniper', 'Larch', 'Maple', 'Oak', 'Pine', 'Rowan'])[n]
         || ' ' || (array['Labs', 'Works', 'Systems', 'Media'])[1 + n % 4],
       (array['FR', 'BE', 'DE', 'NL', 'ES'])[1 + n % 5],
       case when n % 3 > 0 then 'VAT' || 100000 + n end,
       timestamptz '2024-01-08 09:00+01' + n * interval '3 days 04:05:06.789'
  from generate_series(1, 12) n;

insert into attendees (company_id, name, email, newsletter, interests, preferences, born_on, created_at)
select case when n % 10 > 0 then 1 + n % 12 end,
       (array['Ada', 'Bruno', 'Chloé', 'Dmitri', 'Eva', 'Farid', 'Greta', 'Hugo', 'Inès', 'Jonas'])[1 + n % 10]
         || ' ' || (array['Lambert', 'Müller', 'Rossi', 'Janssens', 'García', 'Novák'])[1 + n / 10],
       'guest' || n || '@example.org',
       n % 2 = 0,
       (array['data', 'design', 'security', 'cloud'])[1 : n % 4],
       jsonb_build_object('meal', (array['vegetarian', 'vegan', 'any'])[1 + n % 3], 'badge', jsonb_build_object('size', n % 3)),
       case when n % 4 > 0 then date '1970-01-01' + n * 211 end,
       timestamptz '2024-02-01 10:00+01' + n * interval '7 hours 0.25 seconds'
  from generate_series(1, 59) n;

insert into speakers (name, biography)
select 'Speaker ' || chr(64 + n), case when n % 3 > 0 then 'Has given ' || n * 7 || ' talks.' end
  from generate_series(1, 10) n;

insert into sessions (code, title, kind, room, starts_at, duration, capacity, price)
select 'S' || to_char(n, 'FM000'),
       (array['Streams', 'Queues', 'Indexes', 'Clocks', 'Logs'])[1 + n % 5] || ' in ' || (array['anger', 'theory', 'practice', 'public'])[1 + n % 4],
       (array['keynote', 'talk', 'workshop']::session_kind[])[1 + n % 3],
       case when n % 5 > 0 then 'Room ' || 1 + n % 4 end,
       timestamptz '2027-03-01 09:00+01' + n * interval '45 minutes',
       interval '30 minutes' * (1 + n % 3),
       500,
       (n % 6) * 49.5 + 20
  from generate_series(1, 20) n;

insert into session_speakers (session_id, speaker_id)
select n, 1 + n % 10 from generate_series(1, 20) n
union
select n, 1 + (n * 3) % 10 from generate_series(1, 20) n;

insert into registrations (attendee_id, session_id, registered_at)
select a, 1 + (a * s) % 20, timestamptz '2024-06-01 08:00+02' + (a * 4 + s) * interval '11 minutes'
  from generate_series(1, 50) a, generate_series(1, 3) s
    on conflict do nothing;

insert into tags (name) values ('early-bird'), ('group'), ('press'), ('vip');

insert into orders (attendee_id, reference, status, billing_address, internal_note, placed_at)
select 1 + (n * 7) % 59,
       md5('order ' || n)::uuid,
       'placed',
       jsonb_build_object('street', n || ' Long Street', 'city', (array['Lyon', 'Gent', 'Köln'])[1 + n % 3], 'floor', n * 1.50),
       case when n % 9 = 0 then 'called twice' end,
       timestamptz '2024-07-01 12:00+02' + n * interval '5 hours 0.001 seconds'
  from generate_series(1, 60) n;

insert into order_lines (order_id, line_number, session_id, quantity, unit_price)
select o, l, 1 + (o + l) % 20, 1 + (o * l) % 4, s.price
  from generate_series(1, 60) o cross join generate_series(1, 1 + o % 3) l
  join sessions s on s.id = 1 + (o + l) % 20;

update orders o set total = (select sum(quantity * unit_price) from order_lines l where l.order_id = o.id);

update orders set status = 'paid', paid_at = placed_at + interval '1 day' where id % 3 = 0;
insert into invoices (order_id, number, amount, issued_on)
select id, 'INV-' || to_char(id, 'FM00000'), total, paid_at::date from orders where status = 'paid';

insert into order_tags (order_id, tag_id)
select o, 1 + o % 4 from generate_series(1, 60, 2) o
union
select o, 1 + (o / 2) % 4 from generate_series(1, 60, 3) o;

update attendees set deleted_at = timestamptz '2024-12-24 18:00+01' where id in (13, 26, 39);
