//! Settings of one operator, the same for streams and sinks.

/// The setters of an operator: names, parallelism, chaining, slots.
///
/// The type they are written for has `fn set(&self, setting: &str, change: impl FnOnce(&mut StreamNode)) -> Self`, which
/// finds the node, and `fn environment(&self)`.
macro_rules! operator_settings {
    () => {
        /// Names the operator in listings, logs and errors.
        pub fn name(&self, name: &str) -> Self {
            self.set("name", |node| node.name = name.to_owned())
        }

        /// Gives the operator its identity across versions of the job: its state is found under it.
        ///
        /// By default that is its name, with a number when several share it.
        pub fn uid(&self, uid: &str) -> Self {
            self.set("uid", |node| node.uid = Some(uid.to_owned()))
        }

        /// Says which version of its keyed state's schema this is: 0 unless set.
        ///
        /// To be raised whenever the type of a key or of a state changes: a checkpoint with state of another version is then
        /// refused, rather than read as what it is not.
        pub fn state_version(&self, version: u32) -> Self {
            self.set("state_version", |node| node.state_version = version)
        }

        /// Sets the number of its subtasks, at least 1.
        pub fn set_parallelism(&self, parallelism: u32) -> Self {
            self.set("set_parallelism", |node| node.parallelism = parallelism)
        }

        /// Sets the number of its key groups, in `1..=32768`: how far its keyed state can be spread.
        pub fn set_max_parallelism(&self, max_parallelism: u32) -> Self {
            self.set("set_max_parallelism", |node| node.max_parallelism = Some(max_parallelism))
        }

        /// Begins a task with this operator: it is not chained to what comes before it.
        pub fn start_new_chain(&self) -> Self {
            self.set("start_new_chain", |node| node.chaining = crate::graph::Chaining::Head)
        }

        /// Makes the operator a task of its own, chained to nothing before or after it.
        pub fn disable_chaining(&self) -> Self {
            self.set("disable_chaining", |node| node.chaining = crate::graph::Chaining::Never)
        }

        /// Puts the operator into a group: subtasks of different groups never share a slot.
        ///
        /// By default that is the group of its inputs if they agree, else `default`.
        pub fn slot_sharing_group(&self, group: &str) -> Self {
            self.set("slot_sharing_group", |node| node.slot_sharing_group = Some(group.to_owned()))
        }
    };
}
pub(crate) use operator_settings;
