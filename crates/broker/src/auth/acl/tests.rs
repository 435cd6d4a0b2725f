use super::*;
use proptest::prelude::*;

fn book(rules: &[(Option<&str>, &str, &str)]) -> Vec<Rule> {
    rules.iter().map(|(user, access, topic)| Rule::parse(*user, access, topic).unwrap()).collect()
}

/// What `user` (None: without credentials) may do under these rules, asked with the client id `c1`.
struct As {
    rules: Rules,
    user: Option<&'static str>,
    client_id: &'static str,
}

impl As {
    fn user(rules: &[Rule], user: &'static str) -> As {
        As { rules: RuleBook::new(rules).of(Some(user)).expect("there are rules"), user: Some(user), client_id: "c1" }
    }
    fn anonymous(rules: &[Rule]) -> As {
        As { rules: RuleBook::new(rules).of(None).expect("there are rules"), user: None, client_id: "c1" }
    }
    fn client(self, client_id: &'static str) -> As {
        As { client_id, ..self }
    }
    fn subject(&self) -> Subject<'_> {
        Subject { user: self.user, client_id: self.client_id }
    }
    fn reads(&self, topic: &str) -> bool {
        self.rules.may_read(self.subject(), topic.as_bytes())
    }
    fn writes(&self, topic: &str) -> bool {
        self.rules.may_write(self.subject(), topic.as_bytes())
    }
    fn subscribes(&self, filter: &str) -> Grant {
        self.rules.subscription(self.subject(), filter.as_bytes())
    }
}

#[test]
fn no_rules_allow_everything_and_any_rule_denies_the_rest() {
    assert!(RuleBook::new(&[]).of(Some("ann")).is_none());
    let rules = book(&[(Some("ann"), "read", "a/#"), (Some("ann"), "write", "b/+")]);
    let ann = As::user(&rules, "ann");
    assert!(ann.reads("a/x") && !ann.writes("a/x"));
    assert!(ann.writes("b/x") && !ann.reads("b/x") && !ann.writes("b/x/y"));
    let bob = As::user(&rules, "bob");
    assert!(!bob.reads("a/x") && !bob.writes("b/x"));
    assert_eq!(bob.subscribes("a/#"), Grant::Refused);
}

#[test]
fn rules_without_a_user_are_for_clients_without_credentials() {
    let rules = book(&[(None, "readwrite", "open/#")]);
    assert!(As::anonymous(&rules).writes("open/x"));
    assert!(!As::user(&rules, "ann").reads("open/x"), "as in a mosquitto file");
    let all = book(&[(Some("*"), "read", "open/#")]);
    assert!(As::anonymous(&all).reads("open/x") && As::user(&all, "ann").reads("open/x"));
}

#[test]
fn patterns_stand_for_whoever_asks() {
    let rules = book(&[(None, "readwrite", "dev/%c/#"), (None, "read", "users/%u")]);
    let ann = As::user(&rules, "ann");
    assert!(ann.writes("dev/c1/x") && !ann.writes("dev/c2/x") && !ann.writes("dev/%c/x"));
    assert!(ann.reads("users/ann") && !ann.reads("users/bob"));
    assert_eq!(ann.subscribes("dev/c1/#"), Grant::Whole);
    assert_eq!(ann.subscribes("dev/+/#"), Grant::Refused);
    let nobody = As::anonymous(&rules);
    assert!(nobody.writes("dev/c1/x"));
    assert!(!nobody.reads("users/anonymous"), "no credentials, no user name");
}

/// CVE-2017-7650: a client id of `+` or `#` must not become a wildcard.
#[test]
fn ids_with_wildcards_open_nothing() {
    let rules = book(&[(None, "readwrite", "dev/%c/#"), (None, "readwrite", "%u/#"), (Some("*"), "read", "open")]);
    for id in ["+", "#", "a/b", "", "$SYS", "c+"] {
        let client = As::anonymous(&rules).client(id);
        for filter in ["dev/+/#", "dev/#", "dev/+/x", "dev/a/b/#", "dev//#"] {
            assert_eq!(client.subscribes(filter), Grant::Refused, "{id} {filter}");
        }
        assert!(!client.reads("dev/c1/x") && !client.writes("dev/a/b"), "{id}");
        // Not a topic that a protocol lets through; the rule does not rely on that.
        assert!(!client.writes(&format!("dev/{id}/x")), "{id}");
        assert!(client.reads("open"), "rules that do not name the id still count: {id}");
    }
    for user in ["+", "#", "$SYS"] {
        let client = As::user(&rules, user);
        assert_eq!(client.subscribes("+/#"), Grant::Refused);
        assert!(!client.reads("a/b") && !client.writes("$SYS/x"), "{user}");
    }
}

#[test]
fn denials_come_first_and_own_rules_before_those_for_everybody() {
    let rules = book(&[
        (Some("ann"), "readwrite", "a/#"),
        (Some("ann"), "deny", "a/secret/#"),
        (Some("*"), "readwrite", "a/secret/open"),
        (Some("*"), "deny", "a/b"),
        (Some("*"), "read", "c/#"),
        (Some("*"), "deny", "c/d"),
    ]);
    let ann = As::user(&rules, "ann");
    assert!(!ann.reads("a/secret/open"), "her own denial decides");
    assert!(ann.reads("a/b"), "her own grant decides");
    assert!(!ann.reads("c/d") && ann.reads("c/e"));
    let bob = As::user(&rules, "bob");
    assert!(!bob.reads("a/b") && bob.reads("a/secret/open") && !bob.reads("a/x"));

    assert_eq!(ann.subscribes("a/#"), Grant::Filtered);
    assert_eq!(ann.subscribes("a/b/#"), Grant::Whole);
    assert_eq!(ann.subscribes("a/secret/#"), Grant::Refused);
    assert_eq!(ann.subscribes("c/#"), Grant::Filtered);
    assert_eq!(bob.subscribes("c/e"), Grant::Whole);
    assert_eq!(bob.subscribes("c/d"), Grant::Refused);
    assert_eq!(bob.subscribes("#"), Grant::Refused);
}

#[test]
fn everything_is_not_the_dollar_topics() {
    let rules = book(&[(Some("ann"), "readwrite", "#")]);
    let ann = As::user(&rules, "ann");
    assert!(ann.reads("a") && !ann.reads("$SYS/broker/uptime"));
    assert_eq!(ann.subscribes("$SYS/#"), Grant::Refused);
    let rules = book(&[(Some("ann"), "read", "$SYS/#")]);
    assert_eq!(As::user(&rules, "ann").subscribes("$SYS/broker/+"), Grant::Whole);
}

#[test]
fn what_cannot_be_a_rule_is_refused_with_a_reason() {
    for (access, topic, because) in [
        ("readwrit", "a", "read, write, readwrite, deny"),
        ("read", "", "empty"),
        ("read", "a/#/b", "last level"),
        ("deny", "a+", "level of their own"),
    ] {
        let why = Rule::parse(None, access, topic).unwrap_err().to_string();
        assert!(why.contains(because) && why.contains(&format!("{topic:?}")), "{why}");
    }
}

fn topic_filter() -> impl Strategy<Value = String> {
    let level = prop::sample::select(vec!["a", "b", "$s", "+", "%c", "%u"]);
    (prop::collection::vec(level, 0..3), any::<bool>()).prop_map(|(mut levels, rest)| {
        if rest || levels.is_empty() {
            levels.push("#");
        }
        levels.join("/")
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let who = prop::sample::select(vec![None, Some("b"), Some("*")]);
    let access = prop::sample::select(vec!["read", "write", "readwrite", "deny"]);
    (who, access, topic_filter()).prop_map(|(who, access, topic)| Rule::parse(who, access, &topic).unwrap())
}

fn topics() -> Vec<String> {
    let letters = ["a", "b", "$s", "c1", "z"];
    let mut all: Vec<String> = letters.iter().map(|l| (*l).to_owned()).collect();
    let mut longest = all.clone();
    for _ in 0..2 {
        longest = longest.iter().flat_map(|head| letters.iter().map(move |l| format!("{head}/{l}"))).collect();
        all.extend(longest.iter().cloned());
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// A granted subscription never shows a topic that may not be read, and one that is granted in part shows something at most.
    #[test]
    fn subscriptions_grant_what_reading_grants(rules in prop::collection::vec(rule(), 1..6), filter in topic_filter(), named: bool) {
        let client = if named { As::user(&rules, "b") } else { As::anonymous(&rules) };
        let granted = client.subscribes(&filter);
        let all = topics();
        let mut of_filter = all.iter().filter(|t| crate::auth::filter::matches(crate::auth::filter::levels(filter.as_bytes()), t.as_bytes()));
        match granted {
            Grant::Whole => prop_assert!(of_filter.all(|t| client.reads(t)), "{} under {:?}", filter, rules),
            Grant::Filtered => prop_assert!(rules.iter().any(|r| r.access == Access::Deny)),
            // A filter without wildcards is a topic, and there both questions are one.
            Grant::Refused if !filter.contains(['+', '#']) => prop_assert!(!client.reads(&filter)),
            Grant::Refused => {}
        }
    }
}
