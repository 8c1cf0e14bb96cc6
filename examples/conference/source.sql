-- main/main
-- Run once, in conference, as a superuser or the owner of the tables.
-- The server needs: wal_level = logical (takes a restart), a free replication slot and WAL sender.
-- Advised: ALTER SYSTEM SET max_slot_wal_keep_size = '10GB', so that a hub that is down cannot fill the disk.

DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'hub') THEN
    CREATE ROLE "hub" LOGIN;  -- then set its password: \password hub
  END IF;
  IF NOT (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = 'hub') THEN
    ALTER ROLE "hub" REPLICATION;
  END IF;
END $$;

GRANT CONNECT ON DATABASE "conference" TO "hub";
GRANT USAGE ON SCHEMA "public" TO "hub";
GRANT SELECT ON "public"."attendees" TO "hub";
GRANT SELECT ("id", "name", "country") ON "public"."companies" TO "hub";
GRANT SELECT ON "public"."invoices" TO "hub";
GRANT SELECT ON "public"."order_lines" TO "hub";
GRANT SELECT ON "public"."order_tags" TO "hub";
GRANT SELECT ("id", "reference", "attendee_id", "status", "total", "currency", "billing_address", "placed_at", "paid_at") ON "public"."orders" TO "hub";
GRANT SELECT ON "public"."registrations" TO "hub";
GRANT SELECT ON "public"."session_speakers" TO "hub";
GRANT SELECT ON "public"."sessions" TO "hub";
GRANT SELECT ON "public"."speakers" TO "hub";
GRANT SELECT ON "public"."tags" TO "hub";

-- Only these tables: a publication of all tables makes updates of tables without a key fail.
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_publication WHERE pubname = 'hub') THEN
    ALTER PUBLICATION "hub" SET TABLE "public"."attendees", "public"."companies" ("id", "name", "country"), "public"."invoices", "public"."order_lines", "public"."order_tags", "public"."orders" ("id", "reference", "attendee_id", "status", "total", "currency", "billing_address", "placed_at", "paid_at"), "public"."registrations", "public"."session_speakers", "public"."sessions", "public"."speakers", "public"."tags";
    ALTER PUBLICATION "hub" SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);
  ELSE
    CREATE PUBLICATION "hub" FOR TABLE "public"."attendees", "public"."companies" ("id", "name", "country"), "public"."invoices", "public"."order_lines", "public"."order_tags", "public"."orders" ("id", "reference", "attendee_id", "status", "total", "currency", "billing_address", "placed_at", "paid_at"), "public"."registrations", "public"."session_speakers", "public"."sessions", "public"."speakers", "public"."tags"
      WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);
  END IF;
END $$;

