-- What was replayed, and what of it was promoted into the live topics and tables: by whom, when, under which rules.

CREATE TABLE replays (
    run           text        PRIMARY KEY,  -- the replay's own run
    base          text        NOT NULL,     -- the run whose market.raw it reprocesses; '' is the live system
    asked         jsonb       NOT NULL,     -- as on the command line
    stretches     jsonb       NOT NULL,     -- by partition of market.raw: offsets copied from, compared from, end
    partitions    integer     NOT NULL,
    symbols       text[]      NOT NULL,     -- empty: all
    rules_version text        NOT NULL,     -- hash of the instruments file, and the version of the package
    rules         text        NOT NULL,     -- that file
    started_at    timestamptz NOT NULL DEFAULT now(),
    finished_at   timestamptz
);
COMMENT ON TABLE replays IS 'the replays that are there: dropped ones are not';

CREATE TABLE promotions (
    promotion      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    replay         text        NOT NULL,
    base           text        NOT NULL,
    promoted_by    text        NOT NULL,  -- user@host, and the database's user
    stretches      jsonb       NOT NULL,
    rules_version  text        NOT NULL,
    delete_missing boolean     NOT NULL,
    started_at     timestamptz NOT NULL DEFAULT now(),
    finished_at    timestamptz            -- NULL: interrupted; the same command goes on
);
COMMENT ON TABLE promotions IS 'the audit of what replays changed in other runs; never deleted from';

CREATE TABLE promoted_symbols (
    promotion bigint  NOT NULL REFERENCES promotions,
    symbol    text    NOT NULL,
    counts    jsonb   NOT NULL,  -- by topic: written, deleted
    done_at   timestamptz,       -- when its records and its rows were there
    PRIMARY KEY (promotion, symbol)
);
COMMENT ON TABLE promoted_symbols IS 'what a promotion changed, by symbol; each is promoted whole or not at all';

CREATE TABLE promotion_changes (
    promotion     bigint  NOT NULL,
    symbol        text    NOT NULL,
    number        integer NOT NULL,  -- the order in which they are written
    topic         text    NOT NULL,  -- without the run
    partition     integer NOT NULL,
    key           bytea   NOT NULL,
    value         bytea,             -- NULL: the key is deleted
    source_offset bigint  NOT NULL,
    PRIMARY KEY (promotion, symbol, number),
    FOREIGN KEY (promotion, symbol) REFERENCES promoted_symbols
);
COMMENT ON TABLE promotion_changes IS 'what is still to be written, decided before the first record was: so that it can be resumed';

CREATE OR REPLACE FUNCTION flag_names(flags integer) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(array_agg(name ORDER BY bit), '{}')
    FROM unnest(
        ARRAY['SNAPSHOT', 'BACKFILL', 'NO_EVENT_TIME', 'BAD_CLOCK', 'CROSSED', 'LOCKED', 'ONE_SIDED',
              'NOT_TRADEABLE', 'RELEASED', 'PARTIAL', 'PROMOTED']
    ) WITH ORDINALITY AS names (name, bit)
    WHERE flags & (1 << (bit::integer - 1)) <> 0
$$;
