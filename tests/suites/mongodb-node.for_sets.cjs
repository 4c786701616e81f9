// A root hook of mocha for the Node driver's tests: what asks for a replica set runs against a mongos as well.
//
// The suite leaves out, for a mongos, what a sharded cluster could not be asked for. Behind polypool is a replica set, so
// these tests are asked of it too; and its clients that set a failpoint at one of several mongoses, which do not log in,
// get the login of the run. Nothing else of the suite is changed. The working directory is the suite's checkout.
const path = require("node:path");

const ofSuite = (file) => require(path.resolve("test/tools", file));

exports.mochaHooks = {
  beforeAll() {
    const requirements = ofSuite("unified-spec-runner/unified-utils.ts");
    const { isAnyRequirementSatisfied } = requirements;
    requirements.isAnyRequirementSatisfied = (context, listed, client) => {
      const widened = listed.map((each) =>
        // Of a "sharded-replicaset" the suite would read the shards.
        each.topologies?.includes("replicaset") ? { ...each, topologies: ["sharded"] } : each,
      );
      return isAnyRequirementSatisfied(context, widened, client);
    };

    const { FailPointMap } = ofSuite("unified-spec-runner/entities.ts");
    const { enableFailPoint } = FailPointMap.prototype;
    const login = process.env.MONGODB_URI.match(/^mongodb:\/\/([^@]*@)/)[1];
    FailPointMap.prototype.enableFailPoint = function (at, failPoint) {
      const isClient = typeof at.db === "function";
      return enableFailPoint.call(this, isClient ? at : { toString: () => `${login}${at}` }, failPoint);
    };

    const { MongoDBTopologyFilter } = ofSuite("runner/filters/mongodb_topology_filter.ts");
    const { filter } = MongoDBTopologyFilter.prototype;
    MongoDBTopologyFilter.prototype.filter = function (test) {
      return filter.call(this, test) === true || filter.call({ runtimeTopology: "replicaset" }, test);
    };
  },
};
