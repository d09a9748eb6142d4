// The health check of MongoDB in docker-compose.yml, run by mongosh: makes the replica set of one when there is none
// yet, and is content once this member is its primary.
try {
  rs.status();
} catch (error) {
  if (error.codeName !== "NotYetInitialized") throw error;
  rs.initiate({ _id: "rs0", members: [{ _id: 0, host: "mongodb:27017" }] });
}
quit(db.hello().isWritablePrimary ? 0 : 1);
