//! Queries with a timeout. A server can vanish silently (a cut cable, a pooler whose server was
//! restarted): the connection then stays open and never answers, and without a timeout a run that
//! has already published would wait for ever.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use sqlx::any::{AnyQueryResult, AnyRow, AnyStatement, AnyTypeInfo};
use sqlx::{Any, AnyConnection, Describe, Either, Error, Execute, Executor, SqlStr};

/// How long the catalog may take for one answer. More than its own `statement_timeout`, whose error
/// says more.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(25);

/// A connection, or a pool of them, that must answer in time.
#[derive(Debug)]
pub(super) struct TimedConnection<E>(pub E);

/// A transaction whose every step must be answered in time.
#[derive(Debug)]
pub(super) struct TimedTransaction(pub sqlx::Transaction<'static, Any>);

impl TimedTransaction {
    pub fn ask(&mut self) -> TimedConnection<&mut AnyConnection> {
        TimedConnection(&mut self.0)
    }

    pub async fn commit(self) -> Result<(), Error> {
        in_time(self.0.commit()).await
    }
}

/// What is answered, or that nothing was.
pub(super) async fn in_time<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(ANSWER_MAX, asked)
        .await
        .unwrap_or_else(|_| Err(Error::Io(std::io::ErrorKind::TimedOut.into())))
}

impl<'c, E: Executor<'c, Database = Any>> Executor<'c> for TimedConnection<E> {
    type Database = Any;

    fn fetch_many<'e, 'q: 'e, Q>(
        self,
        query: Q,
    ) -> BoxStream<'e, Result<Either<AnyQueryResult, AnyRow>, Error>>
    where
        'c: 'e,
        Q: 'q + Execute<'q, Any>,
    {
        let rows = self.0.fetch_many(query);
        stream::unfold(Some(rows), async |rows| {
            let mut rows = rows?;
            match in_time(async { rows.next().await.transpose() }).await {
                Ok(row) => row.map(|row| (Ok(row), Some(rows))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    fn fetch_optional<'e, 'q: 'e, Q>(self, query: Q) -> BoxFuture<'e, Result<Option<AnyRow>, Error>>
    where
        'c: 'e,
        Q: 'q + Execute<'q, Any>,
    {
        Box::pin(in_time(self.0.fetch_optional(query)))
    }

    fn prepare_with<'e>(
        self,
        query: SqlStr,
        parameters: &'e [AnyTypeInfo],
    ) -> BoxFuture<'e, Result<AnyStatement, Error>>
    where
        'c: 'e,
    {
        Box::pin(in_time(self.0.prepare_with(query, parameters)))
    }

    fn describe<'e>(self, query: SqlStr) -> BoxFuture<'e, Result<Describe<Any>, Error>>
    where
        'c: 'e,
    {
        Box::pin(in_time(self.0.describe(query)))
    }
}
