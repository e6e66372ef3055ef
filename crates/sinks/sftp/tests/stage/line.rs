//! A line between two ends on this machine: it can be long, and it can be cut.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part of it")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A line that carries connections to a port.
pub(crate) struct Line {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    listener: JoinHandle<()>,
}

struct Shared {
    to: SocketAddr,
    delay: Duration,
    /// How many bytes towards the server are let through before everything is cut; negative: all.
    left: AtomicI64,
    made: AtomicU64,
    /// Connections that were made before this one keep what is on its way to the server.
    held: AtomicU64,
    under_way: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.listener.abort();
        self.cut();
    }
}

impl Line {
    /// A line to a port on this machine, each way of which takes so long.
    pub(crate) async fn to(port: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Arc::new(Shared {
            to: ([127, 0, 0, 1], port).into(),
            delay,
            left: AtomicI64::new(-1),
            made: AtomicU64::new(0),
            held: AtomicU64::new(0),
            under_way: Mutex::default(),
        });
        let port = listener.local_addr().unwrap().port();
        let mine = shared.clone();
        let listener = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = mine.made.fetch_add(1, Ordering::Relaxed);
                let all = mine.clone();
                let carried = tokio::spawn(carry(all, client, number));
                mine.under_way.lock().unwrap().push(carried);
            }
        });
        Self {
            port,
            shared,
            listener,
        }
    }

    /// Cuts all connections; new ones can be made.
    pub(crate) fn cut(&self) {
        for carried in self.shared.under_way.lock().unwrap().drain(..) {
            carried.abort();
        }
    }

    /// Cuts all connections after so many more bytes towards the server, once.
    pub(crate) fn cut_after(&self, bytes: i64) {
        self.shared.left.store(bytes, Ordering::Relaxed);
    }

    /// Whether the cut that was ordered has happened.
    pub(crate) fn was_cut(&self) -> bool {
        self.shared.left.load(Ordering::Relaxed) < 0
    }

    /// Keeps what is on its way to the server on all connections that there are, also when the client leaves them.
    pub(crate) fn hold(&self) {
        self.shared.held.store(self.made(), Ordering::Relaxed);
    }

    /// Lets what was held arrive.
    pub(crate) fn let_go(&self) {
        self.shared.held.store(0, Ordering::Relaxed);
    }

    /// How many connections were made.
    pub(crate) fn made(&self) -> u64 {
        self.shared.made.load(Ordering::Relaxed)
    }
}

async fn carry(shared: Arc<Shared>, client: TcpStream, number: u64) {
    let Ok(server) = TcpStream::connect(shared.to).await else {
        return;
    };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Either end takes the other with it.
    tokio::select! {
        () = one_way(&shared, from_client, to_server, Some(number)) => {}
        () = one_way(&shared, from_server, to_client, None) => {}
    }
}

/// Towards the server it has the number of the connection.
async fn one_way(
    shared: &Shared,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: Option<u64>,
) {
    let up = number.is_some();
    let is_held = || number.is_some_and(|number| number < shared.held.load(Ordering::Relaxed));
    let (queue, mut queued) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let read = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let mut count = count;
            let left = shared.left.load(Ordering::Relaxed);
            let is_last = up && left >= 0 && left <= count as i64;
            if is_last {
                count = usize::try_from(left).unwrap();
            } else if up && left >= 0 {
                shared.left.fetch_sub(count as i64, Ordering::Relaxed);
            }
            let _ = queue.send((Instant::now() + shared.delay, buffer[..count].to_vec()));
            if is_last {
                shared.left.store(-1, Ordering::Relaxed);
                break;
            }
        }
    };
    let write = async move {
        let mut was_held = false;
        while let Some((when, bytes)) = queued.recv().await {
            tokio::time::sleep_until(when).await;
            while is_held() {
                was_held = true;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // Whoever left long ago does not end what is carried out at last.
        if was_held {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::join!(read, write);
}
