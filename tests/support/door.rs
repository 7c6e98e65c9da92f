//! The address that a broker gives for itself, and that leads nowhere from some moment on.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::broker::Broker;

/// Carries connections to a broker, until it is closed.
pub struct Door {
    /// `127.0.0.1:port`.
    pub address: String,
    open: Arc<Mutex<Option<Vec<TcpStream>>>>,
}

impl Door {
    /// Starts a broker that names the door as its address; its own address leads to it, too.
    pub fn before(fast: bool) -> (Door, Broker) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let door = Door {
            address,
            open: Arc::new(Mutex::new(Some(Vec::new()))),
        };

        let broker = Broker::start_with(
            &[&format!(
                "advertised.listeners=PLAINTEXT://{}",
                door.address
            )],
            fast,
        );

        let open = door.open.clone();
        let to = broker.address.clone();
        std::thread::spawn(move || carry(&listener, &open, &to));
        (door, broker)
    }

    /// Cuts all connections; nobody gets in any more.
    pub fn close(&self) {
        let open = self.open.lock().expect("the connections").take();
        open.into_iter()
            .flatten()
            .for_each(|c| drop(c.shutdown(Shutdown::Both)));

        // The listener ends with the connection that finds it closed.
        drop(TcpStream::connect(&self.address));
    }
}

fn carry(listener: &TcpListener, open: &Mutex<Option<Vec<TcpStream>>>, to: &str) {
    for client in listener.incoming().flatten() {
        let mut open = open.lock().expect("the connections");
        let Some(connections) = open.as_mut() else {
            return;
        };

        let Ok(broker) = TcpStream::connect(to) else {
            continue;
        };

        for (from, to) in [(&client, &broker), (&broker, &client)] {
            let mut from = from.try_clone().expect("a stream");
            let mut to = to.try_clone().expect("a stream");
            connections.push(from.try_clone().expect("a stream"));
            std::thread::spawn(move || {
                std::io::copy(&mut from, &mut to).map(|_| to.shutdown(Shutdown::Both))
            });
        }
    }
}
