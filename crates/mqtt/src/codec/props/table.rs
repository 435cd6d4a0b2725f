//! The table of MQTT 5.0, 2.2.2.2 (table 2-4).

/// The packet whose property section is meant. PUBLISH and DISCONNECT differ by sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    Connect,
    ConnAck,
    PublishOfClient,
    PublishOfServer,
    Will,
    PubAck,
    PubRec,
    PubRel,
    PubComp,
    Subscribe,
    SubAck,
    Unsubscribe,
    UnsubAck,
    DisconnectOfClient,
    DisconnectOfServer,
    Auth,
}

#[derive(Clone, Copy)]
pub(super) struct Places(u16);

impl Places {
    const fn of(places: &[Place]) -> Places {
        let mut bits = 0;
        let mut at = 0;
        while at < places.len() {
            bits |= 1 << places[at] as u16;
            at += 1;
        }
        Places(bits)
    }

    pub(super) const fn has(self, place: Place) -> bool {
        self.0 & 1 << place as u16 != 0
    }
}

/// The data type of a property, with "a byte that is 0 or 1" as one of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Two,
    Four,
    Varint,
    Text,
    Binary,
    Pair,
}

#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) kind: Type,
    pub(super) not_zero: bool,
    pub(super) places: Places,
}

macro_rules! table {
    ($($variant:ident = $id:literal, $kind:ident, $zero:ident, [$($place:ident),*];)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum PropertyId { $($variant = $id,)* }

        impl PropertyId {
            pub const ALL: &'static [PropertyId] = &[$(PropertyId::$variant,)*];

            #[inline]
            pub const fn from_u32(id: u32) -> Option<PropertyId> {
                match id { $($id => Some(PropertyId::$variant),)* _ => None }
            }

            #[inline]
            pub(super) const fn row(self) -> Row {
                match self {
                    $(PropertyId::$variant => Row {
                        kind: Type::$kind,
                        not_zero: table!(@$zero),
                        places: const { Places::of(&[$(Place::$place),*]) },
                    },)*
                }
            }
        }
    };
    (@any) => { false };
    (@positive) => { true };
}

table! {
    PayloadFormatIndicator = 1, Bool, any, [PublishOfClient, PublishOfServer, Will];
    MessageExpiryInterval = 2, Four, any, [PublishOfClient, PublishOfServer, Will];
    ContentType = 3, Text, any, [PublishOfClient, PublishOfServer, Will];
    ResponseTopic = 8, Text, any, [PublishOfClient, PublishOfServer, Will];
    CorrelationData = 9, Binary, any, [PublishOfClient, PublishOfServer, Will];
    SubscriptionIdentifier = 11, Varint, positive, [PublishOfServer, Subscribe];
    SessionExpiryInterval = 17, Four, any, [Connect, ConnAck, DisconnectOfClient];
    AssignedClientIdentifier = 18, Text, any, [ConnAck];
    ServerKeepAlive = 19, Two, any, [ConnAck];
    AuthenticationMethod = 21, Text, any, [Connect, ConnAck, Auth];
    AuthenticationData = 22, Binary, any, [Connect, ConnAck, Auth];
    RequestProblemInformation = 23, Bool, any, [Connect];
    WillDelayInterval = 24, Four, any, [Will];
    RequestResponseInformation = 25, Bool, any, [Connect];
    ResponseInformation = 26, Text, any, [ConnAck];
    ServerReference = 28, Text, any, [ConnAck, DisconnectOfServer];
    ReasonString = 31, Text, any,
        [ConnAck, PubAck, PubRec, PubRel, PubComp, SubAck, UnsubAck, DisconnectOfClient, DisconnectOfServer, Auth];
    ReceiveMaximum = 33, Two, positive, [Connect, ConnAck];
    TopicAliasMaximum = 34, Two, any, [Connect, ConnAck];
    TopicAlias = 35, Two, positive, [PublishOfClient, PublishOfServer];
    MaximumQos = 36, Bool, any, [ConnAck];
    RetainAvailable = 37, Bool, any, [ConnAck];
    UserProperty = 38, Pair, any,
        [Connect, ConnAck, PublishOfClient, PublishOfServer, Will, PubAck, PubRec, PubRel, PubComp, Subscribe, SubAck, Unsubscribe,
         UnsubAck, DisconnectOfClient, DisconnectOfServer, Auth];
    MaximumPacketSize = 39, Four, positive, [Connect, ConnAck];
    WildcardSubscriptionAvailable = 40, Bool, any, [ConnAck];
    SubscriptionIdentifierAvailable = 41, Bool, any, [ConnAck];
    SharedSubscriptionAvailable = 42, Bool, any, [ConnAck];
}

/// Which properties a section holds: one bit for each identifier, all of which are below 64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PropertySet(u64);

impl PropertySet {
    pub const EMPTY: PropertySet = PropertySet(0);

    pub const fn of(ids: &[PropertyId]) -> PropertySet {
        let mut bits = 0;
        let mut at = 0;
        while at < ids.len() {
            bits |= 1 << ids[at] as u64;
            at += 1;
        }
        PropertySet(bits)
    }

    #[inline]
    pub const fn has(self, id: PropertyId) -> bool {
        self.0 >> id as u64 & 1 != 0
    }

    #[inline]
    pub const fn meets(self, other: PropertySet) -> bool {
        self.0 & other.0 != 0
    }

    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[inline]
    pub fn insert(&mut self, id: PropertyId) {
        self.0 |= 1 << id as u64;
    }

    #[inline]
    pub fn remove(&mut self, id: PropertyId) {
        self.0 &= !(1 << id as u64);
    }
}
