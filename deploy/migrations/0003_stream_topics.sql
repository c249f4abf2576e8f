-- A topic that was deleted and made anew counts its offsets from 0 again: by Kafka's id of it the sink notices.

CREATE TABLE stream_topics (
    run      text NOT NULL,
    topic    text NOT NULL,
    topic_id text NOT NULL,
    PRIMARY KEY (run, topic)
);
COMMENT ON TABLE stream_topics IS 'which topics, by Kafka''s own ids, the rows of a run came from';
