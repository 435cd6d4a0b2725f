//! An ActiveMQ of Debian's, for comparison: its own folder and port, a bounded heap, STOMP only.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::broker::{free_port, wait_for_port, Ports, PATIENCE};
use crate::process::{self, Group};

/// guest may do everything, and so may bob; there is nobody without a name.
fn settings(data: &Path, port: u16) -> String {
    let xml = r#"<beans xmlns="http://www.springframework.org/schema/beans" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  xsi:schemaLocation="http://www.springframework.org/schema/beans http://www.springframework.org/schema/beans/spring-beans-2.0.xsd
  http://activemq.apache.org/schema/core http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" useJmx="false" brokerName="localhost" dataDirectory="DATA" schedulerSupport="true">
    <plugins>
      <simpleAuthenticationPlugin>
        <users>
          <authenticationUser username="guest" password="guest" groups="users"/>
          <authenticationUser username="bob" password="secret" groups="users"/>
        </users>
      </simpleAuthenticationPlugin>
    </plugins>
    <persistenceAdapter><kahaDB directory="DATA/kahadb" journalMaxFileLength="4mb"/></persistenceAdapter>
    <transportConnectors><transportConnector name="stomp" uri="stomp://127.0.0.1:PORT"/></transportConnectors>
  </broker>
</beans>
"#;
    xml.replace("DATA", &data.display().to_string()).replace("PORT", &port.to_string())
}

pub(super) fn start(jar: &Path, dir: &Path, log: &Path, ports: Ports) -> Result<(Group, Ports)> {
    let port = if ports.activemq == 0 { free_port()? } else { ports.activemq };
    let conf = dir.join("conf");
    fs::create_dir_all(&conf)?;
    let xml = conf.join("activemq.xml");
    fs::write(&xml, settings(&dir.join("data"), port))?;
    let home = jar.parent().and_then(Path::parent).context("activemq.jar lies in no folder")?;
    let mut command = Command::new("java");
    command.args(["-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
    for (name, folder) in [("home", home), ("base", dir), ("conf", &*conf), ("data", &*dir.join("data"))] {
        command.arg(format!("-Dactivemq.{name}={}", folder.display()));
    }
    command.arg("-jar").arg(jar).arg("start").arg(format!("xbean:file:{}", xml.display()));
    let out = process::open_log(log)?;
    command.current_dir(dir).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let mut group = Group::spawn(command)?;
    wait_for_port(&mut group, port, PATIENCE * 3, log).context("activemq")?;
    Ok((group, Ports { activemq: port, ..Ports::default() }))
}
