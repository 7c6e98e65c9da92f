//! The advertised address of a broker. After the test closes the address, no connection reaches the
//! broker.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::broker::Broker;

/// Forwards connections to a broker until the close.
pub struct Door {
    /// `127.0.0.1:port`.
    pub address: String,
    open: Arc<Mutex<Option<Vec<TcpStream>>>>,
}

impl Door {
    /// Starts a broker with the door as its advertised address. The broker's own address works too.
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

    /// Cuts all connections and refuses new connections.
    pub fn close(&self) {
        let open = self.open.lock().expect("the connections").take();
        open.into_iter()
            .flatten()
            .for_each(|c| drop(c.shutdown(Shutdown::Both)));

        // The listener ends at the next connection after the close, so make one connection.
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
