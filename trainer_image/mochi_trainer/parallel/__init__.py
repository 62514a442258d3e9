"""How several processes train one model: ranks, the process group, sharding, recomputation, devices and threads."""
