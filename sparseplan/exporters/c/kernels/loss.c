/* Losses on outputs, each times its weight, the first of its numbers; the gradient may take the output's place. */

/* Largest |output - target| where there is a label; the number of labels. */
static float sp_residuals(const sp_args *a, uint32_t *count) {
    const sp_view *y = &sp_views[a->r[0]], *t = &sp_views[a->r[1]];
    float most = 0.0f;
    uint32_t b, i;
    *count = 0;
    for (b = 0; b < SP_BATCH; b++)
        for (i = 0; i < y->count; i++) {
            float label = sp_get(t, b, i), r;
            if (label != label) continue;
            ++*count;
            r = fabsf(sp_get(y, b, i) - label);
            if (r > most) most = r;
        }
    return most;
}

/* Mean of value(residual) over the labels, and its slopes. */
static void sp_masked(const sp_args *a, sp_env *e, float bend, uint32_t count, sp_f2 value, sp_f2 slope) {
    const sp_view *y = &sp_views[a->r[0]], *t = &sp_views[a->r[1]];
    double total = 0.0;
    uint32_t b, i, k, q, j;
    for (b = 0; b < SP_BATCH; b++)
        for (i = 0; i < y->count; i++) {
            float label = sp_get(t, b, i);
            if (label == label) total += (double)value(sp_get(y, b, i) - label, bend, a->f + 1);
        }
    if (count) e->loss += a->f[0] * (float)(total / count);
    for (q = 0; q < a->writes; q++) {
        const sp_view *w = &sp_views[a->w[q]];
        SP_EACH_RANGE(w, b, k) {
            uint32_t n;
            i = sp_range(w, k, &n);
            for (j = 0; j < n; j++) {
                float label = sp_get(t, b, i + j), d = 0.0f;
                if (label == label) d = slope(sp_get(y, b, i + j) - label, bend, a->f + 1) / (float)count;
                sp_put(w, b, i + j, d * a->f[0]);
            }
        }
    }
}

static float sp_v_l1(float r, float bend, const float *p) {
    (void)bend;
    (void)p;
    return fabsf(r);
}

static float sp_s_l1(float r, float bend, const float *p) {
    (void)bend;
    (void)p;
    return r > 0.0f ? 1.0f : r < 0.0f ? -1.0f : 0.0f;
}

static void sp_l1(const sp_args *a, sp_env *e) {
    uint32_t count;
    sp_residuals(a, &count);
    sp_masked(a, e, 0.0f, count, sp_v_l1, sp_s_l1);
}

static float sp_v_mse(float r, float bend, const float *p) {
    (void)bend;
    (void)p;
    return r * r;
}

static float sp_s_mse(float r, float bend, const float *p) {
    (void)bend;
    (void)p;
    return 2.0f * r;
}

static void sp_mse(const sp_args *a, sp_env *e) {
    uint32_t count;
    sp_residuals(a, &count);
    sp_masked(a, e, 0.0f, count, sp_v_mse, sp_s_mse);
}

static float sp_s_huber(float r, float bend, const float *p) {
    (void)bend;
    return r < -p[0] ? -p[0] : r > p[0] ? p[0] : r;
}

static float sp_v_huber(float r, float bend, const float *p) {
    float s = sp_s_huber(r, bend, p);
    return s * (r - s / 2.0f);
}

static void sp_huber(const sp_args *a, sp_env *e) {
    uint32_t count;
    sp_residuals(a, &count);
    sp_masked(a, e, 0.0f, count, sp_v_huber, sp_s_huber);
}

static float sp_v_berhu(float r, float bend, const float *p) {
    (void)p;
    return fabsf(r) > bend ? (r * r + bend * bend) / (2.0f * bend) : fabsf(r);
}

static float sp_s_berhu(float r, float bend, const float *p) {
    (void)p;
    return fabsf(r) > bend ? r / bend : r > 0.0f ? 1.0f : r < 0.0f ? -1.0f : 0.0f;
}

/* Where every residual is 0, so is the loss. */
static void sp_berhu(const sp_args *a, sp_env *e) {
    uint32_t count;
    float bend = a->f[1] * sp_residuals(a, &count);
    sp_masked(a, e, bend, count, sp_v_berhu, sp_s_berhu);
}

/* Mean of -log softmax(output)[label]; a label that is no class makes the loss NaN. */
static void sp_cross_entropy(const sp_args *a, sp_env *e) {
    const sp_view *y = &sp_views[a->r[0]], *t = &sp_views[a->r[1]];
    double mean = 0.0;
    uint32_t b, i, k, q, j;
    for (b = 0; b < SP_BATCH; b++) {
        float most = sp_get(y, b, 0), total = 0.0f, label = sp_get(t, b, 0);
        uint32_t chosen = label >= 0.0f && label < (float)y->count ? (uint32_t)label : y->count;
        for (i = 1; i < y->count; i++) {
            float v = sp_get(y, b, i);
            if (v > most) most = v;
        }
        for (i = 0; i < y->count; i++) total += expf(sp_get(y, b, i) - most);
        mean += chosen < y->count ? (double)(logf(total) - (sp_get(y, b, chosen) - most)) : (double)NAN;
        for (q = 0; q < a->writes; q++) {
            const sp_view *w = &sp_views[a->w[q]];
            for (k = 0; k < sp_ranges(w); k++) {
                uint32_t n;
                i = sp_range(w, k, &n);
                for (j = 0; j < n; j++) {
                    float d = expf(sp_get(y, b, i + j) - most) / total;
                    d = (i + j == chosen ? d - 1.0f : d) / (float)SP_BATCH;
                    sp_put(w, b, i + j, d * a->f[0]);
                }
            }
        }
    }
    e->loss += a->f[0] * (float)(mean / SP_BATCH);
}
