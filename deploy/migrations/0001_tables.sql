-- What the sink writes. Prices and sizes are exact decimals, times are UTC; where nanoseconds matter a
-- column _ns holds them, as a timestamp has microseconds. run is the namespace; '' is the live system.
-- source_offset: where in market.raw of its run a row came from; a row from before never replaces a later one.

CREATE TABLE instruments (
    run         text     NOT NULL,
    symbol      text     NOT NULL,
    asset_class text     NOT NULL,
    price_scale smallint NOT NULL,  -- decimals of a price; a mid has one more
    size_scale  smallint NOT NULL,
    calendar    text     NOT NULL,
    min_price   numeric  NOT NULL,
    max_price   numeric  NOT NULL,
    strategy    text     NOT NULL,
    PRIMARY KEY (run, symbol)
);
COMMENT ON TABLE instruments IS 'what is traded, as in instruments.yaml';

CREATE TABLE providers (
    run             text    NOT NULL,
    source          text    NOT NULL,
    symbol          text    NOT NULL,
    provider_symbol text    NOT NULL,  -- its own name of the instrument; '' where none is configured
    divisor         bigint  NOT NULL,  -- its price unit is this many of ours
    priority        integer NOT NULL,  -- lower is better
    weight          integer NOT NULL,
    calendar        text    NOT NULL,
    contiguous      boolean NOT NULL,  -- its sequence numbers have no holes of their own
    PRIMARY KEY (run, source, symbol)
);
COMMENT ON TABLE providers IS 'how each source carries each instrument, as in instruments.yaml';

CREATE TABLE ticks (
    run           text        NOT NULL,
    symbol        text        NOT NULL,
    source        text        NOT NULL,
    ts_event      timestamptz NOT NULL,
    ts_recv       timestamptz NOT NULL,
    bid           numeric,  -- bid and ask of a quote; NULL: a missing side, or a trade
    ask           numeric,
    bid_size      numeric,
    ask_size      numeric,
    price         numeric,  -- price and size of a trade
    size          numeric,
    id            text        NOT NULL,
    seq           bigint      NOT NULL,
    flags         integer     NOT NULL,  -- flag_names(flags) says them
    ts_event_ns   bigint      NOT NULL,
    ts_recv_ns    bigint      NOT NULL,
    source_offset bigint      NOT NULL,
    PRIMARY KEY (run, symbol, ts_event, source, source_offset)
);
COMMENT ON TABLE ticks IS 'every accepted quote and trade, once';

CREATE TABLE best_prices (
    run           text        NOT NULL,
    symbol        text        NOT NULL,
    ts_event      timestamptz NOT NULL,
    ts_recv       timestamptz NOT NULL,
    state         text        NOT NULL,
    bid           numeric,  -- prices are NULL in the state no_source
    bid_size      numeric,
    bid_source    text        NOT NULL,
    ask           numeric,
    ask_size      numeric,
    ask_source    text        NOT NULL,
    consensus     numeric,
    eligible      integer     NOT NULL,
    ts_event_ns   bigint      NOT NULL,
    ts_recv_ns    bigint      NOT NULL,
    source_offset bigint      NOT NULL,
    PRIMARY KEY (run, symbol)
) WITH (fillfactor = 50);
COMMENT ON TABLE best_prices IS 'the present best bid and ask across sources, one row a symbol';

CREATE TABLE candles (
    run           text        NOT NULL,
    symbol        text        NOT NULL,
    source        text        NOT NULL,  -- or best: the composite
    start         timestamptz NOT NULL,  -- the minute [start, start + 1 min)
    revision      integer     NOT NULL,  -- -1 provisional, 0 final, 1 and up corrected
    bid_open      numeric,  -- prices are NULL where no quote, or no trade, occurred
    bid_high      numeric,
    bid_low       numeric,
    bid_close     numeric,
    ask_open      numeric,
    ask_high      numeric,
    ask_low       numeric,
    ask_close     numeric,
    mid_open      numeric,
    mid_high      numeric,
    mid_low       numeric,
    mid_close     numeric,
    open          numeric,  -- of trades
    high          numeric,
    low           numeric,
    close         numeric,
    volume        numeric     NOT NULL,  -- traded size
    ticks         bigint      NOT NULL,  -- quotes
    trades        bigint      NOT NULL,
    flags         integer     NOT NULL,
    source_offset bigint      NOT NULL,
    PRIMARY KEY (run, symbol, source, start)
) WITH (fillfactor = 90);
COMMENT ON TABLE candles IS 'one-minute candles by source and of the composite best';

CREATE TABLE gaps (
    run           text        NOT NULL,
    symbol        text        NOT NULL,
    source        text        NOT NULL,
    start         timestamptz NOT NULL,
    until         timestamptz,  -- NULL: open
    cause         text        NOT NULL,
    status        text        NOT NULL,
    start_ns      bigint      NOT NULL,
    until_ns      bigint,
    source_offset bigint      NOT NULL,
    PRIMARY KEY (run, symbol, source, start_ns)
);
COMMENT ON TABLE gaps IS 'the coverage ledger: when a source did not cover a symbol, and why';

CREATE TABLE source_status (
    run           text        NOT NULL,
    symbol        text        NOT NULL,
    source        text        NOT NULL,
    status        text        NOT NULL,
    since         timestamptz,
    ts_event      timestamptz,  -- of the newest tick
    ts_recv       timestamptz,
    latency_ns    bigint      NOT NULL,
    interval_ns   bigint      NOT NULL,
    spread        numeric     NOT NULL,
    arrived       bigint      NOT NULL,
    accepted      bigint      NOT NULL,
    held          bigint      NOT NULL,
    gaps          bigint      NOT NULL,
    rejected      jsonb       NOT NULL,  -- how many for each reason
    source_offset bigint      NOT NULL,
    PRIMARY KEY (run, symbol, source)
) WITH (fillfactor = 50);
COMMENT ON TABLE source_status IS 'the scoreboard of the sources: liveness, latency, spread, every tick accounted for';

CREATE TABLE dead_letter (
    run              text        NOT NULL,
    topic            text        NOT NULL,  -- where the record stood
    partition        integer     NOT NULL,
    record_offset    bigint      NOT NULL,
    reason           text        NOT NULL,
    error            text        NOT NULL,
    record_key       bytea,
    record_value     bytea,
    written_at       timestamptz NOT NULL,  -- to market.dead_letter
    PRIMARY KEY (run, topic, partition, record_offset, reason)
);
COMMENT ON TABLE dead_letter IS 'records that could not be decoded or applied, as they came, and why';

CREATE TABLE stream_offsets (
    run            text        NOT NULL,
    consumer_group text        NOT NULL,
    topic          text        NOT NULL,
    partition      integer     NOT NULL,
    next_offset    bigint      NOT NULL,  -- everything below is in the tables
    updated_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run, consumer_group, topic, partition)
) WITH (fillfactor = 50);
COMMENT ON TABLE stream_offsets IS 'how far each topic has been written, committed together with the rows';

CREATE FUNCTION flag_names(flags integer) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(array_agg(name ORDER BY bit), '{}')
    FROM unnest(
        ARRAY['SNAPSHOT', 'BACKFILL', 'NO_EVENT_TIME', 'BAD_CLOCK', 'CROSSED', 'LOCKED', 'ONE_SIDED',
              'NOT_TRADEABLE', 'RELEASED', 'PARTIAL']
    ) WITH ORDINALITY AS names (name, bit)
    WHERE flags & (1 << (bit::integer - 1)) <> 0
$$;
COMMENT ON FUNCTION flag_names IS 'the names of the bits in a column flags';

CREATE VIEW ohlcv AS
SELECT run, symbol, source, start,
       coalesce(open, mid_open)   AS open,
       coalesce(high, mid_high)   AS high,
       coalesce(low, mid_low)     AS low,
       coalesce(close, mid_close) AS close,
       CASE WHEN trades > 0 THEN volume ELSE ticks END AS volume,
       revision >= 0 AS final,
       flags & 512 = 0 AS complete
FROM candles;
COMMENT ON VIEW ohlcv IS 'candles in short: of trades, or of mids where there were none (volume: quotes)';
