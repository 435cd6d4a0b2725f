use super::client::Client;
use super::*;

const FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &[u8] = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn pencil() -> Verifier {
    Verifier::derive(Algorithm::Sha256, b"pencil", &STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), 4096)
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
    let nobody = Verifier::of_nobody(Algorithm::Sha256, &pencil().salt, 4096, &[0; 32]);
    let mut client = Client::new("user", "pencil", "rOprNGfwEbeRWgbNEkqO");
    let last = exchange().receive(&client.last(SERVER_FIRST.as_bytes())).unwrap();
    assert_eq!(last.verify(&nobody), None);
}

/// The same names, nonces and salt as in RFC 7677 under SHA-512; the texts were made by Python's hashlib and hmac.
const FINAL_512: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=\
                         gMGXRcevScNtxZ6/8lQYpGtnsNAc3mGcmNomv+xnoOMw+3R2xNJdMNnzMlTN8PPC6wdp6dybEmDYXYTxwnYPJQ==";
const SERVER_FINAL_512: &[u8] = b"v=ZQnYEgWQMFmmsM8aQMF0nDDCy/AgCzkwk8CmMZYcMg0vSVlKDanekLtifDSeVGT4+5ZxXnJq199RVG2rR7N7Zw==";
const STORED_512: &str = "SCRAM-SHA-512$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                          6AAub3065EYRmyFpM2RNwqK+eGnrkYuEWbXn19LsEmBqzu8QaCXNc1FwpnX9NhH2hK/60dzj9DoO5DvVkOHbvg==:\
                          jZHbYjC1aHh0/hKbxyBuGFjDrgjgKTT1esA7awWiKcRZ0o/0b1yWEebBeSVkkCFewf91nLDfKF24mvD5nmE6rA==";

#[test]
fn the_same_conversation_under_sha_512_is_what_another_implementation_says() {
    let verifier = Verifier::derive(Algorithm::Sha512, b"pencil", &pencil().salt, 4096);
    assert_eq!(verifier.to_string(), STORED_512);
    assert!(Verifier::parse(STORED_512).unwrap() == verifier);
    assert!(verifier.verify_password(b"pencil") && !verifier.verify_password(b"pencils"));
    let last = exchange().receive(FINAL_512.as_bytes()).unwrap();
    assert_eq!(last.verify(&verifier).as_deref(), Some(SERVER_FINAL_512));
    let mut client = Client::new("user", "pencil", "rOprNGfwEbeRWgbNEkqO").by(Algorithm::Sha512);
    assert_eq!(client.last(SERVER_FIRST.as_bytes()), FINAL_512.as_bytes());
    assert!(client.accepts(SERVER_FINAL_512));
}

#[test]
fn a_proof_of_one_algorithm_proves_nothing_under_the_other() {
    let other = Verifier::parse(STORED_512).unwrap();
    assert_eq!(exchange().receive(FINAL.as_bytes()).unwrap().verify(&other), None);
    assert_eq!(exchange().receive(FINAL_512.as_bytes()).unwrap().verify(&pencil()), None);
    for proof in [&[][..], &[0; 31], &[0; 33], &[0; 65]] {
        let message = format!("c=biws,r=rOprNGfwEbeRWgbNEkqO{SERVER_NONCE},p={}", STANDARD.encode(proof));
        let last = exchange().receive(message.as_bytes()).unwrap();
        assert_eq!((last.verify(&pencil()), last.verify(&other)), (None, None));
    }
}

#[test]
fn stored_forms_are_told_from_others() {
    for form in ["SCRAM-SHA-256$", "{SCRAM-SHA-256}", "SCRAM-SHA-512$", "{SCRAM-SHA-512}"] {
        assert!(Verifier::is_form(form), "{form}");
        assert!(Verifier::parse(form).is_err(), "{form}");
    }
    for other in ["SCRAM-SHA-1$", "SCRAM-SHA-256", "{SCRAM-SHA-256$", "SCRAM-SHA-256}", "{x}", "$6$"] {
        assert!(!Verifier::is_form(other), "{other}");
    }
}
