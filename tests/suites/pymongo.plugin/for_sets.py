"""A plugin of pytest for PyMongo's suite: what asks for a replica set runs against a mongos as well.

The suite leaves out, for a mongos, what a sharded cluster could not be asked for. Behind polypool is a replica set, so
these tests are asked of it too. Nothing else of the suite is changed.
"""

from test import ClientContext

of_type = ClientContext.is_topology_type
begin = ClientContext._init_client


def init_client(self):
    begin(self)
    if self.is_mongos:
        # How many members a write may ask for; the suite takes it from the hello of a member.
        self.w = len(self.client.admin.command("replSetGetStatus")["members"])
        # Whether there are cluster times the suite takes from the hello; here only the other replies bear them.
        self.hello.setdefault("$clusterTime", self.client.admin.command("ping")["$clusterTime"])


def is_topology_type(self, topologies):
    return of_type(self, topologies) or (self.is_mongos and "replicaset" in topologies)


def require_replica_set(self, func):
    return self._require(lambda: self.is_rs or self.is_mongos, "Not connected to a replica set", func=func)


def require_no_mongos(self, func):
    return self._require(lambda: True, "", func=func)


def require_secondaries_count(self, count):
    return self._require(lambda: self.w > count, "Not enough secondaries available")


ClientContext._init_client = init_client
ClientContext.is_topology_type = is_topology_type
ClientContext.require_replica_set = require_replica_set
ClientContext.require_no_mongos = require_no_mongos
ClientContext.require_secondaries_count = require_secondaries_count
# Of a mongos the suite reads its shards for this.
ClientContext.supports_secondary_read_pref = property(lambda self: self.w > 1)


class OfSet:
    """What the suite knows of its servers, for modules whose tests ask by themselves whether these are a replica set."""

    is_rs = True

    def __init__(self, context):
        self._context = context

    @property
    def nodes(self):
        # They are only counted.
        return range(self._context.w)

    def __getattr__(self, name):
        return getattr(self._context, name)


def pytest_collection_modifyitems(items):
    # Without this `test_retryable_writes` would leave a failpoint on for all that follows.
    for module in {item.module for item in items}:
        if module.__name__ in ("test.test_collection", "test.test_database", "test.test_retryable_writes"):
            module.client_context = OfSet(module.client_context)
