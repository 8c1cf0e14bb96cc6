# Kafka's own image as a Connect worker, with the same connector, converter and settings as the local stack.
# The versions are those of stack/versions.env; compose.yaml gives them.
ARG KAFKA_VERSION=4.3.0
ARG MAVEN_VERSION=3.9.11

FROM maven:${MAVEN_VERSION}-eclipse-temurin-17 AS plugins
COPY stack/pom.xml stack/versions.env /stack/
RUN mvn -q -B -f /stack/pom.xml -Dstack.directory=/stack $(sed -n 's/^[A-Z]/-D&/p' /stack/versions.env) \
    dependency:copy-dependencies@libs dependency:unpack@plugins
# The hub's converter beside the connector, where its class loader looks.
COPY cdc/java/hub /converter/hub
RUN cd /converter && plugin=/stack/plugins/debezium-connector-postgres \
    && javac -proc:none -cp "$plugin/*:/stack/libs/*" -d classes hub/DocumentValues.java \
    && jar --create --file "$plugin/document-values.jar" -C classes hub

FROM apache/kafka:${KAFKA_VERSION}
COPY --from=plugins /stack/plugins /opt/hub/plugins
COPY stack/connect.properties /opt/hub/connect.properties
EXPOSE 8083
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=6 \
    CMD wget -q -O /dev/null http://127.0.0.1:8083/health
ENTRYPOINT ["/opt/kafka/bin/connect-distributed.sh", "/opt/hub/connect.properties"]
