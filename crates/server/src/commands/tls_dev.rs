//! `carrick tls dev`: a certificate authority of one's own and what it signs, to try TLS out.

use crate::cli::TlsDev;
use anyhow::{bail, Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

const FILES: [&str; 6] = ["ca.pem", "ca.key", "server.pem", "server.key", "client.pem", "client.key"];
/// Clients refuse certificates of servers that are valid for longer (those of Apple).
const LEAF_DAYS: u64 = 397;
const CA_DAYS: u64 = 3650;

pub fn run(arguments: &TlsDev) -> Result<ExitCode> {
    let dir = crate::wiring::absolute(&arguments.dir);
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
    if let Some(there) = FILES.iter().find(|name| dir.join(name).exists()) {
        bail!("{} is there already; right would be another --dir, or a folder without {}", dir.join(there).display(), FILES.join(", "));
    }
    let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    hosts.extend(arguments.hosts.iter().filter(|host| !["localhost", "127.0.0.1", "::1"].contains(&host.as_str())).cloned());
    make(&dir, &hosts, &arguments.user)?;
    print!("{}", text(&dir, &hosts, &arguments.user));
    Ok(ExitCode::SUCCESS)
}

fn make(dir: &Path, hosts: &[String], user: &str) -> Result<()> {
    let ca_key = KeyPair::generate()?;
    let mut ca = params(Vec::new(), "Carrick development CA", CA_DAYS)?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_certificate = ca.self_signed(&ca_key)?;
    write(&dir.join("ca.pem"), &ca_certificate.pem(), 0o644)?;
    write(&dir.join("ca.key"), &ca_key.serialize_pem(), 0o600)?;
    let issuer = Issuer::new(ca, ca_key);
    let server = params(hosts.to_vec(), &hosts[0], LEAF_DAYS)
        .context("--host: right would be names and addresses, such as broker.example or 10.1.2.3")?;
    sign(dir, "server", server, ExtendedKeyUsagePurpose::ServerAuth, &issuer)?;
    sign(dir, "client", params(Vec::new(), user, LEAF_DAYS)?, ExtendedKeyUsagePurpose::ClientAuth, &issuer)
}

fn params(names: Vec<String>, common_name: &str, days: u64) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = SystemTime::now();
    // An hour ago: not every clock is right.
    params.not_before = (now - Duration::from_secs(3600)).into();
    params.not_after = (now + Duration::from_secs(days * 86_400)).into();
    Ok(params)
}

fn sign(dir: &Path, name: &str, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose, issuer: &Issuer<'_, KeyPair>) -> Result<()> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    // OpenSSL's strict checks, which Python switches on, want to see whose key signed.
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    write(&dir.join(format!("{name}.pem")), &certificate.pem(), 0o644)?;
    write(&dir.join(format!("{name}.key")), &key.serialize_pem(), 0o600)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| format!("cannot write {}", path.display()))
}

fn text(dir: &Path, hosts: &[String], user: &str) -> String {
    let dir = dir.display();
    let mut text = String::new();
    let _ = write!(
        text,
        "wrote, for trying out and not for others:
  {dir}/ca.pem, ca.key           the authority: clients trust ca.pem
  {dir}/server.pem, server.key   the broker, as {}
  {dir}/client.pem, client.key   a client that stands for the user {user}

try it
  carrick --tls-certificate {dir}/server.pem --tls-private-key {dir}/server.key
  mosquitto_sub --cafile {dir}/ca.pem -h localhost -p 8883 -t 'demo/#' -v
  mosquitto_pub --cafile {dir}/ca.pem -h localhost -p 8883 -t demo/hello -m hi
  openssl s_client -connect localhost:8883 -CAfile {dir}/ca.pem -verify_return_error

clients that log in by their certificate: in the file of --config
  [tls]
  certificate = \"{dir}/server.pem\"
  private_key = \"{dir}/server.key\"
  client_ca = \"{dir}/ca.pem\"
  client_auth = \"request\"        # or \"require\"
  user_from = \"cn\"
and then
  mosquitto_pub --cafile {dir}/ca.pem --cert {dir}/client.pem --key {dir}/client.key -h localhost -p 8883 -t demo/hello -m hi
",
        hosts.join(", ")
    );
    text
}
