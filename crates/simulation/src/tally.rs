//! What happened in a run, counted.

macro_rules! counted {
    ($(#[$of:meta])* $name:ident { $($(#[$about:meta])* $field:ident,)* }) => {
        $(#[$of])*
        #[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
        pub struct $name {
            $($(#[$about])* pub $field: u64,)*
        }

        impl $name {
            pub fn add(&mut self, other: &$name) {
                $(self.$field += other.$field;)*
            }
        }
    };
}

counted! {
    /// What a coordinator did to calls, beside taking its time.
    Errors {
        /// Answers that were late, and so perhaps stale.
        slow,
        /// Calls or answers that were lost.
        lost,
        /// Writes that were done after their answer said that nobody knows.
        done_late,
        doubled,
        refused,
    }
}

counted! {
    /// Of the nodes and their clients.
    Counts {
        confirmed,
        settled,
        redelivered,
        faults,
        promotions,
        shrinks,
        growths,
        /// Handovers that somebody asked for.
        handovers,
        restarts,
        /// Stores that were damaged, and replaced by a copy.
        damaged,
        /// Sectors that power cuts took back.
        sectors_lost,
        /// Messages that came at QoS 2, each once.
        once,
        /// Looks at a retained message.
        retained,
        /// Transactions whose commit was confirmed.
        transactions,
        /// Messages that became dead letters when their time was over.
        expired,
        /// Confirmed messages that made room for newer ones.
        dropped,
        /// Messages that came by their priority.
        ranked,
        /// Logs from which a node cut a tail that the other one did not have.
        truncations,
        /// Starts that found a tail behind the last sync, and had to make it sure or drop it.
        torn_tails,
        /// Ranges of the log that were evacuated in a reign that began after the first fault.
        evacuations,
        /// Digests of a primary's queues that its standby compared.
        digests,
        /// Of a whole store, while it is used.
        recounts,
        polls,
    }
}

/// Any 0 in a long series says that it was not tried.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Tally {
    pub counts: Counts,
    pub errors: Errors,
}

impl std::ops::Deref for Tally {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        &self.counts
    }
}

impl std::ops::DerefMut for Tally {
    fn deref_mut(&mut self) -> &mut Counts {
        &mut self.counts
    }
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.counts.add(&other.counts);
        self.errors.add(&other.errors);
    }
}
