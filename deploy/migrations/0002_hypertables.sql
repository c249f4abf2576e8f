-- needs timescaledb
-- Where there is no such extension this step waits, and is made up for once there is.
SELECT create_hypertable('ticks', 'ts_event', chunk_time_interval => interval '1 day', migrate_data => true);
SELECT create_hypertable('candles', 'start', chunk_time_interval => interval '30 days', migrate_data => true);
