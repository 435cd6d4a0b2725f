use super::client::Client;
use super::*;

const FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &[u8] = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn pencil() -> Verifier {
    Verifier::derive(b"pencil", &STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), 4096)
}

fn exchange() -> Exchange {
    let first = ClientFirst::parse(FIRST).unwrap();
    Exchange::new(&first, SERVER_NONCE, &pencil().salt, pencil().iterations)
}

#[test]
fn the_conversation_of_rfc_7677_comes_out_byte_for_byte() {
    let first = ClientFirst::parse(FIRST).unwrap();
    assert_eq!((first.user.as_str(), first.act_as.as_deref()), ("user", None));
    let exchange = exchange();
    assert_eq!(exchange.server_first(), SERVER_FIRST);
    let last = exchange.receive(FINAL.as_bytes()).unwrap();
    assert_eq!(last.verify(&pencil()).as_deref(), Some(SERVER_FINAL));
}

#[test]
fn the_client_of_the_tests_speaks_as_rfc_7677_does() {
    let mut client = Client::new("user", "pencil", "rOprNGfwEbeRWgbNEkqO");
    assert_eq!(client.first(), FIRST);
    assert_eq!(client.last(SERVER_FIRST.as_bytes()), FINAL.as_bytes());
    assert!(client.accepts(SERVER_FINAL));
    assert!(!client.accepts(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="));
}

#[test]
fn another_password_proves_nothing() {
    for wrong in ["", "Pencil", "pencil "] {
        let mut client = Client::new("user", wrong, "rOprNGfwEbeRWgbNEkqO");
        let last = exchange().receive(&client.last(SERVER_FIRST.as_bytes())).unwrap();
        assert_eq!(last.verify(&pencil()), None);
    }
}

#[test]
fn each_changed_byte_of_the_final_message_is_noticed() {
    for at in 0..FINAL.len() {
        let mut changed = FINAL.as_bytes().to_vec();
        changed[at] ^= 1;
        let answer = exchange().receive(&changed).ok().and_then(|last| last.verify(&pencil()));
        assert_eq!(answer, None, "byte {at}");
    }
    for len in 0..FINAL.len() {
        let answer = exchange().receive(&FINAL.as_bytes()[..len]).ok().and_then(|last| last.verify(&pencil()));
        assert_eq!(answer, None, "cut at {len}");
    }
}

#[test]
fn channel_binding_flags() {
    assert!(ClientFirst::parse(b"y,,n=user,r=abc").is_ok());
    assert_eq!(ClientFirst::parse(b"p=tls-unique,,n=user,r=abc"), Err(Malformed::ChannelBinding));
    let first = ClientFirst::parse(b"y,,n=user,r=abc").unwrap();
    let exchange = Exchange::new(&first, "xyz", b"salt", 4096);
    // The flag of the first message has to come back: biws is `n,,`, eSws is `y,,`.
    let proof = STANDARD.encode([0; 32]);
    assert!(exchange.receive(format!("c=eSws,r=abcxyz,p={proof}").as_bytes()).is_ok());
    assert!(exchange.receive(format!("c=biws,r=abcxyz,p={proof}").as_bytes()).is_err());
}

#[test]
fn names_are_unescaped() {
    let first = ClientFirst::parse(b"n,a=other=3D,n=a=2Cb=3Dc,r=abc").unwrap();
    assert_eq!((first.user.as_str(), first.act_as.as_deref()), ("a,b=c", Some("other=")));
    let utf8 = ClientFirst::parse("n,,n=bjørn,r=abc".as_bytes()).unwrap();
    assert_eq!(utf8.user, "bjørn");
}

#[test]
fn what_is_not_a_first_message_is_refused() {
    let bad: [&[u8]; 15] = [
        b"",
        b"n",
        b"n,",
        b"n,,",
        b"x,,n=u,r=a",
        b"n,b,n=u,r=a",
        b"n,a=,n=u,r=a",
        b"n,,n=,r=a",
        b"n,,n=u",
        b"n,,n=u,r=",
        b"n,,m=x,n=u,r=a",
        b"n,,n=u=2c,r=a",
        b"n,,n=u=,r=a",
        b"n,,n=u,r=a b",
        b"n,,n=\xff,r=a",
    ];
    for message in bad {
        assert!(ClientFirst::parse(message).is_err(), "{}", message.escape_ascii());
    }
    assert!(ClientFirst::parse(format!("n,,n=u,r={}", "a".repeat(257)).as_bytes()).is_err());
    assert!(ClientFirst::parse(format!("n,,n={},r=a", "u".repeat(MESSAGE_MAX)).as_bytes()).is_err());
}

#[test]
fn a_stored_credential_reads_back_in_both_spellings() {
    let text = pencil().to_string();
    assert!(Verifier::parse(&text).unwrap() == pencil());
    let [stored, server] = [pencil().stored_key, pencil().server_key].map(|key| STANDARD.encode(key));
    let dovecot = format!("{{SCRAM-SHA-256}}4096,W22ZaJ0SNY7soEsUEjb6gQ==,{stored},{server}");
    assert!(Verifier::parse(&dovecot).unwrap() == pencil());
    assert!(pencil().verify_password(b"pencil"));
    assert!(!pencil().verify_password(b"pencils"));
}

#[test]
fn nobody_is_recognised_by_nobodys_verifier() {
    let nobody = Verifier::of_nobody(&pencil().salt, 4096, [0; 32]);
    let mut client = Client::new("user", "pencil", "rOprNGfwEbeRWgbNEkqO");
    let last = exchange().receive(&client.last(SERVER_FIRST.as_bytes())).unwrap();
    assert_eq!(last.verify(&nobody), None);
}
